//! Standard output. Every write is checked here: where nobody reads on, the program ends as a shell expects; where the
//! text cannot be written, it says so and fails.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// What a shell sees of a program that a closed pipe ended: 128 and the number of SIGPIPE.
const CLOSED_PIPE: i32 = 141;

/// Prints a line, as `println!` does: `say!("{name}: {text}")`.
macro_rules! say {
    () => { $crate::out::line(format_args!("")) };
    ($($arg:tt)+) => { $crate::out::line(format_args!($($arg)+)) };
}
pub(crate) use say;

/// Prints a line.
pub fn line(text: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    checked(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// Prints a piece of text at once.
pub fn piece(text: &str) {
    let mut out = std::io::stdout().lock();
    checked(write!(out, "{text}").and_then(|()| out.flush()));
}

/// Ends the program where a write failed.
pub fn checked(written: std::io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(CLOSED_PIPE);
    }
    eprintln!("qllama: standard output: {} [E_IO]", one_line(&error.to_string()));
    std::process::exit(1);
}

/// Errors of drivers can have many lines.
pub fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
