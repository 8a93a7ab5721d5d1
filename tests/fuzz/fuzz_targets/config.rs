//! Any bytes as `config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qllama::config::Config;

fuzz_target!(|data: &[u8]| {
    let _ = Config::from_bytes("config.json", data);
});
