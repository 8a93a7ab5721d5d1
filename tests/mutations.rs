//! Valid files with bits turned, ends cut off, pieces moved and huge counts written in: each is read or refused, without
//! a panic and with memory in proportion to the file. The changes come from a fixed seed; tests/fuzz looks for more.

#[path = "fuzz/readers.rs"]
mod readers;

use crate::common::engine::{self, Result};
use crate::common::gguf_file::model;
use crate::common::heap::{alone, growth};
use crate::common::{Random, path};

const ROUNDS: usize = 4000;
/// Heap that reading a file of n bytes may take: what a header of short entries needs for its names and shapes.
fn allowed(n: usize) -> u64 {
    (1 << 20) + 64 * n as u64
}

/// Numbers that overflow something, as bytes of a binary field and as digits.
const COUNTS: [u64; 6] = [u64::MAX, 1 << 63, (1 << 61) - 1, 1 << 40, u32::MAX as u64, 1 << 31];

fn index(random: &mut Random, length: usize) -> usize {
    random.below(length as u32) as usize
}

/// One to four changes; whether the end was cut off.
fn change(random: &mut Random, file: &[u8]) -> (Vec<u8>, bool) {
    let mut bytes = file.to_vec();
    let mut cut = false;
    for _ in 0..1 + random.below(4) {
        let at = index(random, bytes.len());
        match random.below(6) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => {
                let count = COUNTS[index(random, COUNTS.len())].to_le_bytes();
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&count[..end - at]);
            }
            3 => {
                let digits = COUNTS[index(random, COUNTS.len())].to_string();
                bytes.splice(at..at, digits.into_bytes());
            }
            4 => {
                let piece = bytes[at..bytes.len().min(at + 1 + index(random, 64))].to_vec();
                let to = index(random, bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                bytes.truncate(at.max(1));
                cut = true;
            }
        }
    }
    (bytes, cut)
}

/// What the fuzzer starts from: all of it is read.
fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(path("tests/fuzz/seeds").join(folder)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Reads `file` changed in many ways. A panic fails the test by itself.
fn check(what: &str, file: &[u8], read: impl Fn(&[u8]) -> Result<()>) {
    read(file).unwrap();
    let mut random = Random::new(1);
    let mut refused = 0;
    for round in 0..ROUNDS {
        let (bytes, cut) = change(&mut random, file);
        let size = bytes.len();
        let (result, heap) = growth(|| read(&bytes));
        assert!(heap <= allowed(size), "{what}, round {round}: {heap} bytes of heap for {size} bytes");
        match result {
            Err(error) => {
                refused += 1;
                let message = error.to_string();
                assert!(error.code().starts_with("E_") && message.len() < 4000, "{what}, round {round}: {message}");
            }
            Ok(()) => assert!(!cut || size >= file.len(), "{what}, round {round}: read with {size} bytes"),
        }
    }
    println!("{what}: {refused} of {ROUNDS} refused");
    assert!(refused > ROUNDS / 2, "{what}: {refused} of {ROUNDS} refused");
}

/// A file of four tensors of six floats.
fn small_weights() -> Vec<u8> {
    let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    for (i, shape) in ["[2,3]", "[6]", "[3,2]", "[1,1,6]"].iter().enumerate() {
        let (begin, end) = (24 * i, 24 * (i + 1));
        header.push_str(&format!(
            ",\"model.layers.{i}.self_attn.q_proj.weight\":{{\"dtype\":\"F32\",\"shape\":{shape},\
             \"data_offsets\":[{begin},{end}]}}"
        ));
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + 96, 0);
    file
}

#[test]
fn safetensors_headers() {
    let _alone = alone();
    check("model.safetensors", &small_weights(), readers::header);
}

#[test]
fn indexes() {
    let _alone = alone();
    let map: String =
        (0..4).map(|i| format!(",\n\"model.layers.{i}.self_attn.q_proj.weight\": \"a.safetensors\"")).collect();
    let index = format!("{{\"metadata\": {{\"total_size\": 96}}, \"weight_map\": {{{}}}}}", &map[1..]);
    let shard = small_weights();
    check("model.safetensors.index.json", index.as_bytes(), |bytes| readers::index(bytes, &shard));
}

#[test]
fn configs() {
    let _alone = alone();
    check("config.json", readers::CONFIG, readers::config);
}

#[test]
fn gguf_files() {
    let _alone = alone();
    let (mut file, _) = model(|_| 2, true);
    file.tensors.retain(|t| t.name == "token_embd.weight" || t.name.contains("norm"));
    check("m.gguf", &file.bytes(), readers::gguf);
}

#[test]
fn seeds_of_the_fuzzer() {
    let _alone = alone();
    for seed in seeds("adapters") {
        readers::adapters(&seed).unwrap();
    }
    for seed in seeds("header") {
        readers::header(&seed).unwrap();
    }
    for seed in seeds("config") {
        readers::config(&seed).unwrap();
    }
    for seed in seeds("gguf") {
        readers::gguf(&seed).unwrap();
    }
    for seed in seeds("options") {
        readers::options(&seed).unwrap();
    }
    for seed in seeds("preprocessor") {
        readers::preprocessor(&seed).unwrap();
    }
}

#[test]
fn tokenizers() {
    let _alone = alone();
    for seed in seeds("tokenizer") {
        check("tokenizer.model", &seed, readers::tokenizer);
    }
}
