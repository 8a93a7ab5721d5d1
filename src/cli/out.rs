//! Standard output and standard error. Every write of results is checked here: where nobody reads on, the program ends as
//! a shell expects; where the text cannot be written, it says so and fails. No text of a file or of a model steers a
//! terminal.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write};

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
    piece(&format!("{text}\n"));
}

/// Prints a piece of text at once.
pub fn piece(text: &str) {
    let mut out = std::io::stdout().lock();
    let text = if out.is_terminal() { harmless(text, &['\n', '\t']) } else { text.into() };
    checked(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Prints a line on standard error; where that fails there is nowhere left to say so.
pub fn note(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{}", one_line(&text.to_string()));
}

/// Prints lines on standard error: what people may want to copy as it stands.
pub fn notes(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", harmless(text, &['\n']));
}

/// Ends the program where a write failed.
pub fn checked(written: std::io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        leave(CLOSED_PIPE);
    }
    note(format_args!("qllama: standard output: {error} [E_IO]"));
    leave(1);
}

/// Ends the program at once. A driver's threads may be at work, and what it would take down behind `main` is theirs.
pub fn leave(status: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: it returns to nobody, and touches no memory of this program.
    unsafe {
        libc::_exit(status)
    }
    #[cfg(not(unix))]
    std::process::exit(status)
}

/// The name of a file for people: on one line, and harmless to terminals.
pub fn name(name: &str) -> Cow<'_, str> {
    harmless(name, &[])
}

/// One line of a message: errors of drivers can have many.
fn one_line(message: &str) -> String {
    harmless(&message.split_whitespace().collect::<Vec<_>>().join(" "), &[]).into_owned()
}

/// Text without what terminals obey: control characters but those that are `wanted`, and marks that turn the direction of
/// text, are written as JSON writes them.
fn harmless<'a>(text: &'a str, wanted: &[char]) -> Cow<'a, str> {
    let steers = |c: char| c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    if !text.contains(|c| steers(c) && !wanted.contains(&c)) {
        return text.into();
    }
    let shown = |c: char| match steers(c) && !wanted.contains(&c) {
        true => format!("\\u{:04x}", c as u32),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        for text in ["cat's \"ear\"\\.png", "Katze ü 猫 🐈", ""] {
            assert!(matches!(harmless(text, &[]), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(name("a\u{1b}[31m\n\u{9b}2J\u{202e}gnp.exe"), "a\\u001b[31m\\u000a\\u009b2J\\u202egnp.exe");
        assert_eq!(harmless("a\tb\n\r\u{7}", &['\n', '\t']), "a\tb\n\\u000d\\u0007");
        assert_eq!(one_line("a\n  b\u{1b}]0;c"), "a b\\u001b]0;c");
    }
}
