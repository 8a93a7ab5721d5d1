//! Checkpoints of any InternVL's shapes with seeded random 4-bit weights, for what is about size and speed.

use super::engine::{CheckpointWriter, Config, NewTensor, TensorType};
use std::path::Path;

use serde_json::{Value, json};

/// The published InternVL-14B-224px.
pub fn published() -> Value {
    json!({
        "model_type": "internvl", "clip_embed_dim": 768, "attn_pool_num_heads": 16, "num_query_token": 96,
        "cross_attention_frequency": 2,
        "vision_config": {
            "hidden_size": 3200, "num_attention_heads": 25, "num_hidden_layers": 48, "intermediate_size": 12800,
            "image_size": 224, "patch_size": 14, "qk_normalization": true, "qkv_bias": false, "hidden_act": "gelu",
            "layer_norm_eps": 1e-6
        },
        "qllama_config": {
            "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 11008,
            "vocab_size": 49954, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 0, "vision_hidden_size": 3200
        }
    })
}

/// Bytes that are made at a time.
const BUFFER: usize = 4 << 20;

/// How a tensor is filled.
#[derive(Clone, Copy)]
enum Fill {
    /// Any bits.
    Bits,
    /// The same bf16 everywhere.
    Same(u16),
    /// BF16 of random sign, from this power of two to its double.
    Around(i32),
    /// The shape of a packed matrix.
    Shape([i64; 2]),
}

struct Tensors {
    group: u64,
    all: Vec<(NewTensor, Fill)>,
}

impl Tensors {
    fn add(&mut self, name: &str, dtype: TensorType, shape: &[u64], fill: Fill) {
        self.all.push((NewTensor { name: name.into(), dtype, shape: shape.to_vec() }, fill));
    }

    fn float(&mut self, name: &str, shape: &[usize], fill: Fill) {
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        self.add(name, TensorType::BF16, &shape, fill);
    }

    /// A norm's weight.
    fn ones(&mut self, name: &str, width: usize) {
        self.float(name, &[width], Fill::Same(0x3f80));
    }

    fn zeros(&mut self, name: &str, shape: &[usize]) {
        self.float(name, shape, Fill::Same(0));
    }

    /// A packed matrix whose products have about the size of what comes in.
    fn linear(&mut self, name: &str, rows: usize, cols: usize) {
        let (rows, cols) = (rows as u64, cols as u64);
        assert!(cols.is_multiple_of(self.group), "{name}: groups of {} in {cols} columns", self.group);
        self.add(&format!("{name}.weight_packed"), TensorType::I32, &[rows, cols / 8], Fill::Bits);
        let power = -((cols as f64).sqrt() * 7.0).log2().round() as i32;
        self.add(&format!("{name}.weight_scale"), TensorType::BF16, &[rows, cols / self.group], Fill::Around(power));
        let shape = Fill::Shape([rows as i64, cols as i64]);
        self.add(&format!("{name}.weight_shape"), TensorType::I64, &[2], shape);
    }
}

/// Writes `config.json` and the weights of `config`, all linear layers in 4 bits; returns the weights' bytes. Data
/// follow from names and positions alone.
pub fn write(folder: &Path, config: &Value, group: usize) -> u64 {
    let mut config = config.clone();
    config["quantization_config"] = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": { "group_0": { "targets": ["Linear"], "weights": {
            "num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": group
        } } }
    });
    let text = config.to_string();
    std::fs::write(folder.join("config.json"), &text).unwrap();
    let config = Config::from_bytes("config.json", text.as_bytes()).unwrap();
    let tensors = tensors(&config, group);
    let groups: Vec<Vec<NewTensor>> = tensors.iter().map(|(tensor, _)| vec![tensor.clone()]).collect();
    let mut writer = CheckpointWriter::open(folder, &groups, 4 << 30).unwrap();
    let mut buffer: Vec<u64> = vec![0; BUFFER / 8];
    let mut total = 0;
    for (number, (tensor, fill)) in tensors.iter().enumerate() {
        let bytes = tensor.bytes().unwrap();
        for at in (0..bytes).step_by(BUFFER) {
            let count = (bytes - at).min(BUFFER as u64) as usize;
            let words = &mut buffer[..count.div_ceil(8)];
            fill_words(words, *fill, (number as u64) << 40 | at);
            writer.write(&tensor.name, at, &bytemuck::cast_slice(words)[..count]).unwrap();
        }
        total += bytes;
    }
    writer.finish(folder).unwrap();
    total
}

fn fill_words(words: &mut [u64], fill: Fill, first: u64) {
    let four = |half: u16| u64::from(half) * 0x0001_0001_0001_0001;
    match fill {
        Fill::Same(half) => words.fill(four(half)),
        Fill::Shape(shape) => words.copy_from_slice(&shape.map(|n| n as u64)),
        Fill::Bits => (first..).zip(words).for_each(|(i, word)| *word = random(i)),
        Fill::Around(power) => {
            let exponent = four(((127 + power) as u16) << 7);
            (first..).zip(words).for_each(|(i, word)| *word = random(i) & four(0x807f) | exponent);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014) of a counter.
fn random(counter: u64) -> u64 {
    let z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn tensors(config: &Config, group: usize) -> Vec<(NewTensor, Fill)> {
    let (vision, clip, text) = (config.vision.as_ref().unwrap(), config.clip.as_ref().unwrap(), &config.text);
    let mut t = Tensors { group: group as u64, all: Vec::new() };
    let small = Fill::Around(-6);

    let (w, inner, patch) = (vision.hidden_size, vision.intermediate_size, vision.patch_size);
    let at = "vision_model.embeddings";
    t.float(&format!("{at}.class_embedding"), &[1, 1, w], small);
    t.float(&format!("{at}.patch_embedding.weight"), &[w, 3, patch, patch], small);
    t.zeros(&format!("{at}.patch_embedding.bias"), &[w]);
    let grid = vision.image_size / patch;
    t.float(&format!("{at}.position_embedding"), &[1, 1 + grid * grid, w], small);
    for i in 0..vision.num_hidden_layers {
        let at = format!("vision_model.encoder.layers.{i}");
        for (norm, width) in [("norm1", w), ("attn.q_norm", w), ("attn.k_norm", w), ("norm2", w)] {
            t.ones(&format!("{at}.{norm}.weight"), width);
        }
        for (layer, rows, cols) in
            [("attn.qkv", 3 * w, w), ("attn.proj", w, w), ("mlp.fc1", inner, w), ("mlp.fc2", w, inner)]
        {
            t.linear(&format!("{at}.{layer}"), rows, cols);
            if layer != "attn.qkv" {
                t.zeros(&format!("{at}.{layer}.bias"), &[rows]);
            }
        }
        for scale in ["ls1", "ls2"] {
            t.float(&format!("{at}.{scale}"), &[w], Fill::Around(-4));
        }
    }

    let (h, inner, vocab) = (text.hidden_size, text.intermediate_size, text.vocab_size);
    t.float("qllama.model.embed_tokens.weight", &[vocab, h], small);
    for i in 0..text.num_hidden_layers {
        let at = format!("qllama.model.layers.{i}");
        t.ones(&format!("{at}.input_layernorm.weight"), h);
        t.ones(&format!("{at}.post_attention_layernorm.weight"), h);
        for layer in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            t.linear(&format!("{at}.self_attn.{layer}"), h, h);
        }
        for (layer, rows, cols) in [("gate_proj", inner, h), ("up_proj", inner, h), ("down_proj", h, inner)] {
            t.linear(&format!("{at}.mlp.{layer}"), rows, cols);
        }
        if i % text.cross_attention_frequency == 0 {
            t.ones(&format!("{at}.cross_attn.norm1.weight"), h);
            t.ones(&format!("{at}.cross_attn.norm2.weight"), w);
            for (layer, cols) in [("q_proj", h), ("k_proj", w), ("v_proj", w), ("o_proj", h)] {
                t.linear(&format!("{at}.cross_attn.{layer}"), h, cols);
            }
        }
    }
    t.ones("qllama.model.norm.weight", h);
    t.linear("qllama.lm_head", vocab, h);

    let out = clip.clip_embed_dim;
    for (pool, width) in [("clip_projector", w), ("clip_projector2", h)] {
        for branch in ["q", "k", "v"] {
            t.ones(&format!("{pool}.norm1_{branch}.weight"), width);
            t.zeros(&format!("{pool}.norm1_{branch}.bias"), &[width]);
            t.linear(&format!("{pool}.cross_attn.{branch}"), width, width);
            t.zeros(&format!("{pool}.cross_attn.{branch}_bias"), &[width]);
        }
        t.linear(&format!("{pool}.cross_attn.proj"), out, width);
        t.zeros(&format!("{pool}.cross_attn.proj.bias"), &[out]);
    }
    t.float("query_tokens", &[1, text.num_query_token, h], small);
    t.float("text_projection", &[h, out], small);
    t.linear("itm_head", 2, h);
    t.zeros("itm_head.bias", &[2]);
    t.zeros("logit_scale", &[]);
    t.all
}
