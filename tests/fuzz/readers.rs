//! Any bytes as each kind of file: what the fuzzer and `tests/mutations.rs` try.
#![allow(dead_code)]

use pollster::block_on;

use super::engine::{
    AdapterWeights, Checkpoint, Config, GenerateOptions, Gguf, Memory, Picture, Preprocessor, Result, Tokenizer,
};

pub const CONFIG: &[u8] = include_bytes!("../data/fixtures/qllama-base/config.json");

pub fn config(data: &[u8]) -> Result<()> {
    Config::from_bytes("config.json", data).map(drop)
}

/// A text that has what tokenizers treat in ways of their own.
const TEXT: &str = "  The cat's\u{301} 12345 éclairs — 猫🐈\u{1F3FD}\t\n<s></s>\u{FFFD}";

pub fn gguf(data: &[u8]) -> Result<()> {
    let source = Memory::new("test").with("m.gguf", data.to_vec());
    block_on(Gguf::open(&source, "m.gguf"))?.tokenizer.iter().for_each(use_tokenizer);
    Ok(())
}

/// As `tokenizer.model`.
pub fn tokenizer(data: &[u8]) -> Result<()> {
    Tokenizer::from_bytes("tokenizer.model", data).map(|tokenizer| use_tokenizer(&tokenizer))
}

/// Cuts texts up, and puts them together.
fn use_tokenizer(tokenizer: &Tokenizer) {
    let ids = tokenizer.encode_text(TEXT);
    let vocabulary = tokenizer.vocab_size() as u32;
    assert!(ids.iter().all(|&id| id < vocabulary), "{ids:?} of {vocabulary}");
    let whole = tokenizer.decode(&ids);
    let mut stream = tokenizer.decode_stream();
    let pieces: String = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(pieces + &stream.finish(), whole);
    let _ = tokenizer.decode(&[0, 1, vocabulary, u32::MAX]);
}

/// As a file of a picture, which is then made ready.
pub fn pictures(data: &[u8]) -> Result<()> {
    let picture = Picture::from_bytes(data)?;
    let values = Preprocessor::new(8)?.pixel_values(&picture);
    assert_eq!(values.values.len(), 3 * 8 * 8);
    Ok(())
}

/// As `preprocessor_config.json`.
pub fn preprocessor(data: &[u8]) -> Result<()> {
    Preprocessor::from_bytes("preprocessor_config.json", data).map(drop)
}

/// As options of generation in words, a name and a value a line.
pub fn options(data: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(data);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    GenerateOptions::parse(pairs)?.check()
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

/// As `adapter_config.json` and, behind a NUL, `adapter_model.safetensors`.
pub fn adapters(data: &[u8]) -> Result<()> {
    let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    AdapterWeights::from_bytes("test", &data[..end], data.get(end + 1..).unwrap_or_default()).map(drop)
}
