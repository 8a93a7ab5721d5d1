//! Any bytes as `model.safetensors`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qllama::checkpoint::Checkpoint;
use qllama::source::Memory;

const CONFIG: &[u8] = include_bytes!("../../data/fixtures/qllama-base/config.json");

fuzz_target!(|data: &[u8]| {
    let source = Memory::new("fuzz").with("config.json", CONFIG.to_vec()).with("model.safetensors", data.to_vec());
    let _ = pollster::block_on(Checkpoint::open(Box::new(source)));
});
