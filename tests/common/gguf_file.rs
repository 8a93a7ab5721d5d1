//! GGUF files in the making, and the same models in the safetensors layout.

use super::engine::{Memory, NamedTensor, TensorType, tensors_to_bytes};
use half::{bf16, f16};

use super::Random;

/// A value of a field.
#[derive(Clone)]
pub enum Value {
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

pub fn text(t: &str) -> Value {
    Value::Text(t.into())
}

pub fn length_and(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

impl Value {
    pub fn bytes(&self) -> Vec<u8> {
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

pub struct Stored {
    pub name: String,
    /// From the fastest axis, as the file has them.
    pub axes: Vec<u64>,
    pub kind: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A GGUF file in the making.
pub struct File {
    pub version: u32,
    pub fields: Vec<(String, Value)>,
    pub tensors: Vec<Stored>,
    pub counts: Option<(u64, u64)>,
}

impl File {
    pub fn set(&mut self, key: &str, value: Value) -> &mut File {
        self.remove(key);
        self.fields.push((key.into(), value));
        self
    }

    pub fn remove(&mut self, key: &str) -> &mut File {
        self.fields.retain(|(k, _)| k != key);
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
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

/// Rows as `kind` stores them, and what they then mean.
pub fn stored(kind: u32, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
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
        meant =
            if kind == 30 { TensorType::BF16.to_f32("", &bytes).unwrap() } else { dtype.to_f32("", &bytes).unwrap() };
    }
    (bytes, meant)
}

/// A block of Q4_K, Q5_K or Q6_K by ggml's formulas.
pub fn k_block(kind: u32, b: &[u8]) -> Vec<f32> {
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

pub const HIDDEN: usize = 256;
pub const HEADS: usize = 8;
pub const KV_HEADS: usize = 2;
pub const HEAD: usize = HIDDEN / HEADS;
pub const INNER: usize = 512;
pub const VOCAB: usize = 40;
pub const LAYERS: usize = 2;

/// Sizes and a SentencePiece tokenizer, without tensors.
pub fn sizes() -> File {
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
pub fn model(kind: impl Fn(&str) -> u32, tied: bool) -> (File, Memory) {
    let mut random = Random::new(3);
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
            (0..rows * cols).map(|_| if norm { 1.0 + 0.1 * random.f32() } else { 0.1 * random.f32() }).collect();
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
