//! Panics in the code of others, which here are errors like any other.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
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

/// A panic in words, and where it was, without the path of the machine that built the program.
pub fn in_words(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map(|at| format!(" ({}:{})", place(at.file()), at.line()));
    said(info.payload()) + &place.unwrap_or_default()
}

/// What a panic said, on one line.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.and_then(|text| text.lines().next()).unwrap_or("no reason given").into()
}

/// A file of source code from its package's folder on.
fn place(file: &str) -> String {
    let parts: Vec<&str> = file.split(['/', '\\']).collect();
    let code = parts.iter().rposition(|part| *part == "src").map(|src| src.saturating_sub(1));
    parts[code.unwrap_or(parts.len() - 1)..].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_errors() {
        assert_eq!(caught(|| 3), Ok(3));
        let empty: Vec<u8> = Vec::new();
        let error = caught(|| empty[std::hint::black_box(7)]).unwrap_err();
        assert_eq!(error, "index out of bounds: the len is 0 but the index is 7");
        assert_eq!(caught(|| -> u8 { panic!("first\nsecond") }), Err("first".into()));
        assert_eq!(caught(|| -> u8 { std::panic::panic_any(3) }), Err("no reason given".into()));
        // One within the other.
        assert_eq!(caught(|| caught(|| -> u8 { panic!("inner") })), Ok(Err("inner".into())));
    }

    #[test]
    fn places_begin_at_their_package() {
        for (file, expected) in [
            (
                "/home/me/.cargo/registry/src/index.crates.io-1949cf8c/image-webp-0.2.4/src/vp8.rs",
                "image-webp-0.2.4/src/vp8.rs",
            ),
            (r"C:\Users\me\.cargo\registry\src\x\png-0.18.1\src\decoder\mod.rs", "png-0.18.1/src/decoder/mod.rs"),
            ("/rustc/e408947/library/core/src/slice/index.rs", "core/src/slice/index.rs"),
            ("src/ops/linear.rs", "src/ops/linear.rs"),
            ("/home/me/qllama/src/error.rs", "qllama/src/error.rs"),
            ("/home/me/build.rs", "build.rs"),
        ] {
            assert_eq!(place(file), expected);
        }
    }
}
