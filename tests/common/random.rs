//! Checkpoints of any InternVL's shapes with random 4-bit weights on disk, for what is about size and speed.

use super::engine::{CheckpointWriter, RandomCheckpoint, RandomFormat, Source};
use std::path::Path;

use serde_json::Value;

pub use super::engine::published;

/// Bytes that are made at a time.
const BUFFER: usize = 4 << 20;

/// Writes `config.json` and the weights of `config`, all linear layers in 4 bits; returns the weights' bytes.
pub fn write(folder: &Path, config: &Value, group: usize) -> u64 {
    let random = RandomCheckpoint::new(config, RandomFormat::Int { bits: 4, group }).unwrap();
    let mut text = vec![0; pollster::block_on(random.size("config.json")).unwrap().unwrap() as usize];
    pollster::block_on(random.read("config.json", 0, &mut text)).unwrap();
    std::fs::write(folder.join("config.json"), &text).unwrap();
    let groups: Vec<_> = random.tensors().map(|tensor| vec![tensor.clone()]).collect();
    let mut writer = CheckpointWriter::open(folder, &groups, 4 << 30).unwrap();
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    for (number, tensor) in random.tensors().enumerate() {
        let bytes = tensor.bytes().unwrap();
        for at in (0..bytes).step_by(BUFFER) {
            let now = &mut buffer[..(bytes - at).min(BUFFER as u64) as usize];
            random.fill(number, at, now);
            writer.write(&tensor.name, at, now).unwrap();
        }
        total += bytes;
    }
    writer.finish(folder).unwrap();
    total
}
