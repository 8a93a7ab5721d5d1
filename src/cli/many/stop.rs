//! Ctrl-C: the first asks to end, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::out;

/// What a shell sees of a program that Ctrl-C ended: 128 and the number of SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Becomes true when the user, or the system, wants the run to end.
pub fn asked() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    // Where there is a handler already, or none can be set, Ctrl-C ends the program at once, and nothing is lost.
    let _ = ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            out::leave(INTERRUPTED.into());
        }
        out::note(format_args!("qllama: ending behind the pictures at work; Ctrl-C again ends at once"));
    });
    stop
}
