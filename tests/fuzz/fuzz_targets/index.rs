//! Any bytes as `model.safetensors.index.json`.
#![no_main]

#[path = "../../common/engine.rs"]
mod engine;
#[path = "../readers.rs"]
mod readers;

use libfuzzer_sys::fuzz_target;

/// One tensor, `a`: four bytes of U8.
const SHARD: &[u8] = b"\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}           \0\0\0\0";

fuzz_target!(|data: &[u8]| {
    let _ = readers::index(data, SHARD);
});
