//! Any bytes as `preprocessor_config.json`.
#![no_main]

#[path = "../../common/engine.rs"]
mod engine;
#[path = "../readers.rs"]
mod readers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = readers::preprocessor(data);
});
