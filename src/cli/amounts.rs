//! Numbers of bytes: read, in words, and as a bar.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// A number of bytes: `5368709120`, `5GiB`, `1.5 GB`.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("unit {unit:?}: expected KiB, MiB, GiB, KB, MB, GB or none")),
    };
    let whole = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    let fraction = || number.parse::<f64>().ok().map(|n| n * factor as f64).filter(|n| *n < u64::MAX as f64);
    let found = whole.or_else(|| fraction().filter(|_| number.contains('.')).map(|n| n as u64));
    found.filter(|&n| n > 0).ok_or_else(|| "expected a number of bytes above 0, as 5368709120 or 5GiB".into())
}

/// A size in words.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1048576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1073741824.0),
    }
}

/// A bar of bytes with the time left; nothing unless standard error is a terminal.
pub fn progress_bar(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}, {eta} left");
    let bar = ProgressBar::new(0).with_message(what).with_style(style.expect("the template is right"));
    bar.with_finish(ProgressFinish::AndClear)
}
