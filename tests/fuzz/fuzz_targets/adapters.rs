//! Any bytes as an adapter: `adapter_config.json`, a NUL, and `adapter_model.safetensors`.
#![no_main]

#[path = "../../common/engine.rs"]
mod engine;
#[path = "../readers.rs"]
mod readers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = readers::adapters(data);
});
