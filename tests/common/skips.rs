//! Tests that lack something of this machine say so aloud, or fail.

use std::io::Write;

/// Says that this test is not made for want of `what`, past libtest's capture. Where `QLLAMA_REQUIRE_ALL` is set it
/// fails instead, but for what `QLLAMA_MAY_SKIP` lists with commas between.
pub fn skipped(what: &str, why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let may_skip = std::env::var("QLLAMA_MAY_SKIP").unwrap_or_default();
    let allowed = std::env::var_os("QLLAMA_REQUIRE_ALL").is_none() || may_skip.split(',').any(|name| name == what);
    assert!(allowed, "not to be skipped, as QLLAMA_REQUIRE_ALL is set and QLLAMA_MAY_SKIP has no {what}: {why}");
    std::io::stderr().write_all(format!("skipped: {test} ({what}): {why}\n").as_bytes()).unwrap();
}
