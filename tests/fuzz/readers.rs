//! Any bytes as each kind of file: what the fuzzer and `tests/mutations.rs` try.
#![allow(dead_code)]

use pollster::block_on;

use super::engine::{Checkpoint, Config, Gguf, Memory, Result};

pub const CONFIG: &[u8] = include_bytes!("../data/fixtures/qllama-base/config.json");

pub fn config(data: &[u8]) -> Result<()> {
    Config::from_bytes("config.json", data).map(drop)
}

pub fn gguf(data: &[u8]) -> Result<()> {
    let source = Memory::new("test").with("m.gguf", data.to_vec());
    block_on(Gguf::open(&source, "m.gguf")).map(drop)
}

/// As `model.safetensors`.
pub fn header(data: &[u8]) -> Result<()> {
    let source = Memory::new("test").with("config.json", CONFIG.to_vec()).with("model.safetensors", data.to_vec());
    block_on(Checkpoint::open(Box::new(source))).map(drop)
}

/// As `model.safetensors.index.json`, beside a file that it may name.
pub fn index(data: &[u8], shard: &[u8]) -> Result<()> {
    let source = Memory::new("test")
        .with("config.json", CONFIG.to_vec())
        .with("model.safetensors.index.json", data.to_vec())
        .with("a.safetensors", shard.to_vec());
    block_on(Checkpoint::open(Box::new(source))).map(drop)
}
