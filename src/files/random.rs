//! Checkpoints of any InternVL's shapes with random weights, made while they are read: for what is about size and speed.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files::config::{ClipConfig, Config, LlamaConfig, VisionConfig};
use crate::files::safetensors::{NewTensor, TensorType, file_header};
use crate::files::source::{LocalFuture, Source, not_found};

/// The sizes of the published InternVL-14B-224px: its `config.json`.
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

/// How the linear layers of a random checkpoint are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RandomFormat {
    BF16,
    /// Integers of 4 or 8 bits with a BF16 scale for each `group` columns.
    Int {
        bits: usize,
        group: usize,
    },
}

/// A checkpoint in the published layout, in one file. Data follow from tensors' places and positions alone.
pub struct RandomCheckpoint {
    config: Vec<u8>,
    header: Vec<u8>,
    /// Each tensor with where its data begin behind the header and how they are made, in order.
    tensors: Vec<(u64, NewTensor, Fill)>,
    bytes: u64,
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Of embeddings.
const SMALL: Fill = Fill::Around(-6);

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
    Shape([u64; 2]),
}

impl Fill {
    /// Word `at` of a tensor, of 8 bytes; `seed` differs between tensors.
    fn word(self, seed: u64, at: u64) -> u64 {
        let four = |half: u16| u64::from(half) * 0x0001_0001_0001_0001;
        match self {
            Fill::Same(half) => four(half),
            Fill::Shape(shape) => shape[at as usize],
            Fill::Bits => random(seed | at),
            Fill::Around(power) => random(seed | at) & four(0x807f) | four(((127 + power) as u16) << 7),
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

impl RandomCheckpoint {
    /// A checkpoint of the sizes in `config`, the text of a `config.json` without quantization.
    ///
    /// # Errors
    /// `E_CONFIG` and `E_JSON` for what is wrong in `config`; `E_INPUT` for columns that are no whole groups.
    pub fn new(config: &Value, format: RandomFormat) -> Result<RandomCheckpoint> {
        let mut config = config.clone();
        if let RandomFormat::Int { bits, group } = format {
            config["quantization_config"] = json!({
                "quant_method": "compressed-tensors", "format": "pack-quantized",
                "config_groups": { "group_0": { "targets": ["Linear"], "weights": {
                    "num_bits": bits, "type": "int", "symmetric": true, "strategy": "group", "group_size": group
                } } }
            });
        }
        let config = config.to_string().into_bytes();
        let parsed = Config::from_bytes(CONFIG, &config)?;
        let (Some(vision), Some(clip)) = (&parsed.vision, &parsed.clip) else {
            return Err(Error::Input { reason: "random weights are made for a whole InternVL".into() });
        };
        let mut all = Tensors { format, all: Vec::new(), fault: None };
        all.add_vision(vision);
        all.add_decoder(&parsed.text, vision.hidden_size);
        all.add_heads(vision, clip, &parsed.text);
        if let Some(reason) = all.fault {
            return Err(Error::Input { reason });
        }
        // Wide elements first, so that every tensor's data are aligned.
        all.all.sort_by_key(|(tensor, _)| std::cmp::Reverse(tensor.dtype.bytes()));
        let (header, starts) = file_header(&all.all.iter().map(|(tensor, _)| tensor).collect::<Vec<_>>());
        let bytes = all.all.iter().filter_map(|(tensor, _)| tensor.bytes()).sum();
        let tensors = starts.into_iter().zip(all.all).map(|(start, (tensor, fill))| (start, tensor, fill)).collect();
        Ok(RandomCheckpoint { config, header, tensors, bytes })
    }

    /// Its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &NewTensor> {
        self.tensors.iter().map(|(_, tensor, _)| tensor)
    }

    /// Bytes of tensor `number` from its byte `offset` on.
    pub fn fill(&self, number: usize, offset: u64, out: &mut [u8]) {
        let (_, _, fill) = self.tensors[number];
        let seed = (number as u64) << 40;
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let skipped = (at % 8) as usize;
            let word = fill.word(seed, at / 8).to_le_bytes();
            let count = rest.len().min(8 - skipped);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[skipped..skipped + count]);
            at += count as u64;
            rest = later;
        }
    }

    /// Bytes of the file of weights from `offset` on.
    fn read_weights(&self, offset: u64, out: &mut [u8]) {
        let header = self.header.len() as u64;
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let (from, count) = if at < header {
                (None, header - at)
            } else {
                let number = self.tensors.partition_point(|(start, ..)| *start <= at - header) - 1;
                let (start, tensor, _) = &self.tensors[number];
                let into = at - header - start;
                (Some((number, into)), tensor.bytes().expect("a size that was summed") - into)
            };
            let (now, later) = rest.split_at_mut((rest.len() as u64).min(count) as usize);
            match from {
                None => now.copy_from_slice(&self.header[at as usize..][..now.len()]),
                Some((number, into)) => self.fill(number, into, now),
            }
            at += now.len() as u64;
            rest = later;
        }
    }
}

impl Source for RandomCheckpoint {
    fn describe(&self) -> String {
        "random weights".into()
    }

    fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>> {
        let size = match name {
            CONFIG => Some(self.config.len() as u64),
            WEIGHTS => Some(self.header.len() as u64 + self.bytes),
            _ => None,
        };
        Box::pin(std::future::ready(Ok(size)))
    }

    fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let have = self.size(name).await?.ok_or_else(|| not_found(name, self))?;
            let need = offset.saturating_add(buf.len() as u64);
            if need > have {
                return Err(Error::Truncated { file: name.into(), need, have });
            }
            match name {
                CONFIG => buf.copy_from_slice(&self.config[offset as usize..][..buf.len()]),
                _ => self.read_weights(offset, buf),
            }
            Ok(())
        })
    }
}

/// A list of tensors that grows.
struct Tensors {
    format: RandomFormat,
    all: Vec<(NewTensor, Fill)>,
    fault: Option<String>,
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

    /// A matrix whose products have about the size of what comes in.
    fn linear(&mut self, name: &str, rows: usize, cols: usize) {
        let root = (cols as f64).sqrt();
        let RandomFormat::Int { bits, group } = self.format else {
            let power = -(root * 1.5).log2().round() as i32;
            return self.float(&format!("{name}.weight"), &[rows, cols], Fill::Around(power));
        };
        if !cols.is_multiple_of(group) {
            self.fault.get_or_insert(format!("{name} has {cols} columns, which are no groups of {group}"));
        }
        let (rows, cols, group) = (rows as u64, cols as u64, group as u64);
        let shape = [rows, cols * bits as u64 / 32];
        self.add(&format!("{name}.weight_packed"), TensorType::I32, &shape, Fill::Bits);
        // The mean size of an integer is about this.
        let size = (1u32 << (bits - 1)) as f64 * 0.9;
        let power = -(root * size).log2().round() as i32;
        self.add(&format!("{name}.weight_scale"), TensorType::BF16, &[rows, cols / group], Fill::Around(power));
        self.add(&format!("{name}.weight_shape"), TensorType::I64, &[2], Fill::Shape([rows, cols]));
    }

    fn add_vision(&mut self, vision: &VisionConfig) {
        let t = self;
        let (w, inner, patch) = (vision.hidden_size, vision.intermediate_size, vision.patch_size);
        let at = "vision_model.embeddings";
        t.float(&format!("{at}.class_embedding"), &[1, 1, w], SMALL);
        t.float(&format!("{at}.patch_embedding.weight"), &[w, 3, patch, patch], SMALL);
        t.zeros(&format!("{at}.patch_embedding.bias"), &[w]);
        let grid = vision.image_size / patch;
        t.float(&format!("{at}.position_embedding"), &[1, 1 + grid * grid, w], SMALL);
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
    }

    /// `w` is the width of vision rows.
    fn add_decoder(&mut self, text: &LlamaConfig, w: usize) {
        let t = self;
        let (h, inner, vocab) = (text.hidden_size, text.intermediate_size, text.vocab_size);
        t.float("qllama.model.embed_tokens.weight", &[vocab, h], SMALL);
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
    }

    fn add_heads(&mut self, vision: &VisionConfig, clip: &ClipConfig, text: &LlamaConfig) {
        let t = self;
        let (w, h) = (vision.hidden_size, text.hidden_size);
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
        t.float("query_tokens", &[1, text.num_query_token, h], SMALL);
        t.float("text_projection", &[h, out], SMALL);
        t.linear("itm_head", 2, h);
        t.zeros("itm_head.bias", &[2]);
        t.zeros("logit_scale", &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the pieces that a file is read in, its bytes are the same; and 14B's is as large as it should be.
    #[test]
    fn pieces_make_the_whole() {
        let text = include_str!("../../models/emoji-tiny/config.json");
        let config: Value = serde_json::from_str(text).unwrap();
        for format in [RandomFormat::BF16, RandomFormat::Int { bits: 4, group: 32 }] {
            let source = RandomCheckpoint::new(&config, format).unwrap();
            let read = |at: u64, bytes: usize| {
                let mut out = vec![0; bytes];
                pollster::block_on(source.read(WEIGHTS, at, &mut out)).unwrap();
                out
            };
            let size = pollster::block_on(source.size(WEIGHTS)).unwrap().unwrap();
            let whole = read(0, size as usize);
            for (at, bytes) in [(0, 9), (source.header.len() as u64 - 3, 1001), (size / 2 + 1, 70_001), (size - 5, 5)] {
                assert_eq!(read(at, bytes), whole[at as usize..][..bytes], "{at} {bytes}");
            }
            assert!(pollster::block_on(source.read(WEIGHTS, size, &mut [0])).is_err());
        }
        let published = RandomCheckpoint::new(&published(), RandomFormat::Int { bits: 4, group: 128 }).unwrap();
        assert!((7_000_000_000..8_000_000_000).contains(&published.bytes), "{}", published.bytes);
        let uneven = RandomFormat::Int { bits: 4, group: 1000 };
        assert!(RandomCheckpoint::new(&config, uneven).is_err());
    }
}
