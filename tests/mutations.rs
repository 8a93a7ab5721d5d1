//! Valid files with bits turned, ends cut off, pieces moved and huge counts written in: each is read or refused, without
//! a panic and with memory in proportion to the file. The changes come from a fixed seed; tests/fuzz looks for more.

mod common;

use std::sync::{Mutex, MutexGuard};

use common::gguf_file::model;
use common::heap::{Counted, growth};
use common::path;
use pollster::block_on;
use qllama::Error;
use qllama::files::checkpoint::Checkpoint;
use qllama::files::config::Config;
use qllama::files::gguf::Gguf;
use qllama::files::source::Memory;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const ROUNDS: usize = 4000;
/// Heap that reading a file of n bytes may take: what a header of short entries needs for its names and shapes.
fn allowed(n: usize) -> u64 {
    (1 << 20) + 64 * n as u64
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// Numbers that overflow something, as bytes of a binary field and as digits.
const COUNTS: [u64; 6] = [u64::MAX, 1 << 63, (1 << 61) - 1, 1 << 40, u32::MAX as u64, 1 << 31];

/// One to four changes; whether the end was cut off.
fn change(random: &mut Random, file: &[u8]) -> (Vec<u8>, bool) {
    let mut bytes = file.to_vec();
    let mut cut = false;
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => {
                let count = COUNTS[random.below(COUNTS.len())].to_le_bytes();
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&count[..end - at]);
            }
            3 => {
                let digits = COUNTS[random.below(COUNTS.len())].to_string();
                bytes.splice(at..at, digits.into_bytes());
            }
            4 => {
                let piece = bytes[at..bytes.len().min(at + 1 + random.below(64))].to_vec();
                let to = random.below(bytes.len());
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

/// The heap is counted for one test at a time: each holds this from its start.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Reads `file` changed in many ways. A panic fails the test by itself.
fn check(what: &str, file: &[u8], read: impl Fn(Vec<u8>) -> Result<(), Error>) {
    read(file.to_vec()).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    for round in 0..ROUNDS {
        let (bytes, cut) = change(&mut random, file);
        let size = bytes.len();
        let (result, heap) = growth(|| read(bytes));
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

const BASE: &str = "tests/data/fixtures/qllama-base";

fn base(file: &str) -> Vec<u8> {
    std::fs::read(path(BASE).join(file)).unwrap()
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

fn open(source: Memory) -> Result<(), Error> {
    block_on(Checkpoint::open(Box::new(source))).map(drop)
}

#[test]
fn safetensors_headers() {
    let _alone = alone();
    let config = base("config.json");
    check("model.safetensors", &small_weights(), |bytes| {
        open(Memory::new("test").with("config.json", config.clone()).with("model.safetensors", bytes))
    });
}

#[test]
fn indexes() {
    let _alone = alone();
    let (config, shard) = (base("config.json"), small_weights());
    let map: String =
        (0..4).map(|i| format!(",\n\"model.layers.{i}.self_attn.q_proj.weight\": \"a.safetensors\"")).collect();
    let index = format!("{{\"metadata\": {{\"total_size\": 96}}, \"weight_map\": {{{}}}}}", &map[1..]);
    check("model.safetensors.index.json", index.as_bytes(), |bytes| {
        let source = Memory::new("test").with("config.json", config.clone()).with("a.safetensors", shard.clone());
        open(source.with("model.safetensors.index.json", bytes))
    });
}

#[test]
fn configs() {
    let _alone = alone();
    check("config.json", &base("config.json"), |bytes| Config::from_bytes("config.json", &bytes).map(drop));
}

#[test]
fn gguf_files() {
    let _alone = alone();
    let (mut file, _) = model(|_| 2, true);
    file.tensors.retain(|t| t.name == "token_embd.weight" || t.name.contains("norm"));
    check("m.gguf", &file.bytes(), |bytes| {
        let source = Memory::new("test").with("m.gguf", bytes);
        block_on(Gguf::open(&source, "m.gguf")).map(drop)
    });
}
