//! Panics in the code of others, which here are errors like any other.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread runs what [`caught`] was given.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs the code of others. A panic in it ends nothing and prints nothing: what it said is the error. Where panics abort,
/// as WebAssembly's do, they still do.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !CATCHING.get() {
                others(info);
            }
        }));
    });
    let outer = CATCHING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(outer);
    done.map_err(|panic| said(panic.as_ref()))
}

/// What a panic said, on one line.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    let first = text.and_then(|text| text.lines().next()).unwrap_or("no reason given");
    format!("its reader stopped ({first})")
}
