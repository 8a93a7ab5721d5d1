//! Any bytes as `model.safetensors.index.json`, beside a file that it may name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qllama::checkpoint::Checkpoint;
use qllama::source::Memory;

const CONFIG: &[u8] = include_bytes!("../../data/fixtures/qllama-base/config.json");
/// One tensor, `a`: four bytes of U8.
const SHARD: &[u8] = b"\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}           \0\0\0\0";

fuzz_target!(|data: &[u8]| {
    let source = Memory::new("fuzz")
        .with("config.json", CONFIG.to_vec())
        .with("model.safetensors.index.json", data.to_vec())
        .with("a.safetensors", SHARD.to_vec());
    let _ = pollster::block_on(Checkpoint::open(Box::new(source)));
});
