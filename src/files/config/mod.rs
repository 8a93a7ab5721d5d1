//! `config.json`: the sizes of a model, with every field checked before a weight is read.
//!
//! Two layouts are read. The whole InternVL has `vision_config` and `qllama_config`; a lone QLLaMA, or any model of
//! the LLaMA family, has its fields at the top. Fields of the structs are named as in the file.

mod pattern;
mod quantization;

pub use quantization::{QuantizationConfig, Target};

use crate::files::json::{Fields, Json, config_error, duplicate, parse, pointer};

use crate::error::{Error, Result};

// What no real model comes near. A file that asks for more is damaged, and would ask for memory accordingly.
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1000;
const MAX_HEADS: usize = 1 << 14;
const MAX_VOCAB: usize = 1 << 24;
/// Also the last whole number up to which f32 holds every position.
const MAX_POSITIONS: usize = 1 << 24;
const MAX_PIXELS: usize = 1 << 14;
const MAX_QUERIES: usize = 1 << 16;

/// The base of QLLaMA's rotary embedding, whatever its file says, and the LLaMA family's when its file says nothing.
const ROPE_BASE: f32 = 10_000.0;

/// A model's sizes.
#[derive(Debug, Clone)]
pub struct Config {
    /// InternViT; only in the whole InternVL.
    pub vision: Option<VisionConfig>,
    /// The decoder.
    pub text: LlamaConfig,
    /// The CLIP heads; only in the whole InternVL.
    pub clip: Option<ClipConfig>,
    /// Which weights are packed integers, where any are.
    pub quantization: Option<QuantizationConfig>,
}

/// InternViT (`vision_config`).
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of a row; a multiple of the heads.
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Side of a picture, pixels. The trained grid follows from the stored position rows and not from this.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Whether q and k are normalised over their whole width; true when absent.
    pub qk_normalization: bool,
    /// Whether `qkv` has a bias; false when absent.
    pub qkv_bias: bool,
    pub layer_norm_eps: f32,
}

/// QLLaMA or another decoder of the LLaMA family (`qllama_config`, or the top level).
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Width of a row.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of keys and values, a divisor of `num_attention_heads`, which it is when absent.
    pub num_key_value_heads: usize,
    /// Width of a head of self-attention, even; `hidden_size / num_attention_heads` when absent.
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Positions from this on are an error.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    /// Base of the rotary embedding: always 10000 with cross-attention, else as the file has it, 10000 when absent.
    pub rope_theta: f32,
    /// Whether the embedding serves as `lm_head.weight` where the file lacks that; false when absent.
    pub tie_word_embeddings: bool,
    /// 1 when absent or null.
    pub bos_token_id: u32,
    /// `eos_token_id`, one or a list: every id that ends a text. 2 when absent, none when null.
    pub eos_token_ids: Vec<u32>,
    /// 0 when absent or null.
    pub pad_token_id: u32,
    /// Rows that cross-attention changes; 96 when absent.
    pub num_query_token: usize,
    /// Cross-attention stands in every layer whose index is a multiple of this; 2 when absent.
    pub cross_attention_frequency: usize,
    /// Width of the vision rows: `vision_config.hidden_size` when absent, 3200 when there is no `vision_config` either.
    pub vision_hidden_size: usize,
    /// Whether there is cross-attention at all. True in a whole InternVL, and where the file has a field that only
    /// cross-attention needs. A lone QLLaMA's file without any of these is a plain LLaMA's to the letter: then this is
    /// false until [`Checkpoint::open`](crate::files::checkpoint::Checkpoint::open) finds tensors of it, as it does for every
    /// file whose names hold `.cross_attn.q_proj.`
    pub cross_attention: bool,
}

/// The CLIP heads (top level of the whole InternVL's file).
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Width of an embedding; 768 when absent.
    pub clip_embed_dim: usize,
    /// Heads of both attention pools; 16 when absent.
    pub attn_pool_num_heads: usize,
}

impl LlamaConfig {
    /// Whether layer `layer` has cross-attention.
    pub fn cross_attends(&self, layer: usize) -> bool {
        self.cross_attention && layer.is_multiple_of(self.cross_attention_frequency)
    }

    /// How many layers cross-attend.
    pub fn cross_attention_layers(&self) -> usize {
        (0..self.num_hidden_layers).filter(|&layer| self.cross_attends(layer)).count()
    }

    /// Makes this a decoder with cross-attention, because the tensors of the checkpoint say so.
    pub(crate) fn set_cross_attention(&mut self, file: &str) -> Result<()> {
        if !self.cross_attention {
            self.cross_attention = true;
            self.rope_theta = ROPE_BASE;
            self.check_cross_attention().map_err(|(key, rule)| config_error(file, pointer("", key), rule))?;
        }
        Ok(())
    }

    /// The rules that hold for a decoder with cross-attention only; the error is the field and the rule it breaks.
    fn check_cross_attention(&self) -> std::result::Result<(), (&'static str, String)> {
        if self.head_dim * self.num_attention_heads != self.hidden_size {
            let rule = format!(
                "with cross-attention expected hidden_size / num_attention_heads ({} / {}), found {}",
                self.hidden_size, self.num_attention_heads, self.head_dim
            );
            return Err(("head_dim", rule));
        }
        if self.num_query_token > self.max_position_embeddings {
            let rule = format!(
                "expected at least the {} query tokens, found {}",
                self.num_query_token, self.max_position_embeddings
            );
            return Err(("max_position_embeddings", rule));
        }
        Ok(())
    }
}

impl Config {
    /// What the decoder's tensor names begin with: `qllama.` in the whole InternVL, nothing in a lone QLLaMA.
    pub fn prefix(&self) -> &'static str {
        if self.vision.is_some() { "qllama." } else { "" }
    }

    /// Reads the bytes of a `config.json`; `file` is its name in messages.
    ///
    /// # Errors
    /// `E_CONFIG` with a JSON pointer and the rule that is broken, for a field that is missing, of another type, out of
    /// range, there twice, or asks for what is not supported; for a file that is not JSON, with the byte.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Config> {
        let json = parse(file, bytes).map_err(|error| match error {
            Error::Header { offset, reason, .. } => {
                config_error(file, String::new(), format!("not JSON at byte {offset}: {reason}"))
            }
            other => other,
        })?;
        let top = Fields::of(file, "", &json)?;
        if let Some(place) = duplicate(&json) {
            return Err(config_error(file, place, "the field appears twice".into()));
        }
        let quantization = match top.given("quantization_config") {
            Some(json) => Some(QuantizationConfig::read(file, "/quantization_config", json)?),
            None => None,
        };
        let Some(qllama) = top.get("qllama_config") else {
            if top.get("vision_config").is_some() {
                return Err(top.error("qllama_config", "expected an object beside vision_config, found nothing"));
            }
            architecture(&top, &["llama", "qllama"], "llama")?;
            return Ok(Config { vision: None, text: read_text(&top, None)?, clip: None, quantization });
        };

        architecture(&top, &["internvl"], "internvl")?;
        for key in ["use_backbone_lora", "use_qllama_lora"] {
            top.unsupported(key, "LoRA weights apart are not supported; merge them first")?;
        }
        let vision = top.get("vision_config").ok_or_else(|| top.unexpected("vision_config", "an object"))?;
        let vision = read_vision(&Fields::of(file, "/vision_config", vision)?, &top)?;
        let text_fields = Fields::of(file, "/qllama_config", qllama)?;
        let text = read_text(&text_fields, Some((&top, &vision)))?;
        let clip = ClipConfig {
            clip_embed_dim: top.whole("clip_embed_dim", 1, MAX_WIDTH, Some(768))?,
            attn_pool_num_heads: top.whole("attn_pool_num_heads", 1, MAX_HEADS, Some(16))?,
        };
        for (of, width) in [("vision_config", vision.hidden_size), ("qllama_config", text.hidden_size)] {
            if !width.is_multiple_of(clip.attn_pool_num_heads) {
                let rule =
                    format!("expected a divisor of {of}'s hidden_size {width}, found {}", clip.attn_pool_num_heads);
                return Err(top.error("attn_pool_num_heads", rule));
            }
        }
        Ok(Config { vision: Some(vision), text, clip: Some(clip), quantization })
    }
}

/// Checks `model_type` and `architectures`, where they are given.
fn architecture(top: &Fields, model_types: &[&'static str], family: &str) -> Result<()> {
    top.word("model_type", model_types)?;
    let names = top.texts("architectures")?;
    if !names.is_empty() && !names.iter().any(|name| name.to_ascii_lowercase().contains(family)) {
        let found = crate::error::printable(&names.join(", "));
        return Err(top.error("architectures", format!("expected one of the {family} family, found {found}")));
    }
    Ok(())
}

fn read_vision(f: &Fields, top: &Fields) -> Result<VisionConfig> {
    f.word("model_type", &["intern_vit_6b"])?;
    f.word("hidden_act", &["gelu"])?;
    f.word("norm_type", &["rms_norm"])?;
    f.whole("num_channels", 3, 3, Some(3))?;
    let patch_size = f.whole("patch_size", 1, MAX_PIXELS, None)?;
    let vision = VisionConfig {
        hidden_size: f.whole("hidden_size", 1, MAX_WIDTH, None)?,
        num_attention_heads: f.whole("num_attention_heads", 1, MAX_HEADS, None)?,
        num_hidden_layers: f.whole("num_hidden_layers", 1, MAX_LAYERS, None)?,
        intermediate_size: f.whole("intermediate_size", 1, MAX_WIDTH, None)?,
        image_size: f.whole("image_size", patch_size, MAX_PIXELS, None)?,
        patch_size,
        qk_normalization: f.flag("qk_normalization", Some(true))?,
        qkv_bias: f.flag("qkv_bias", Some(false))?,
        layer_norm_eps: f.positive("layer_norm_eps", None)?,
    };
    // The side that the published code resizes its position embedding to at start. Here every picture's own does that.
    top.whole_or_null("force_image_size", patch_size, MAX_PIXELS)?;
    heads_divide(f, vision.hidden_size, vision.num_attention_heads)?;
    Ok(vision)
}

fn heads_divide(f: &Fields, hidden_size: usize, heads: usize) -> Result<()> {
    if hidden_size.is_multiple_of(heads) {
        return Ok(());
    }
    Err(f.error("hidden_size", format!("expected a multiple of num_attention_heads {heads}, found {hidden_size}")))
}

/// Reads the decoder. `whole` is the top level and the vision part of a whole InternVL's file.
fn read_text(f: &Fields, whole: Option<(&Fields, &VisionConfig)>) -> Result<LlamaConfig> {
    f.word("model_type", &["llama", "qllama"])?;
    f.word("hidden_act", &["silu"])?;
    f.unsupported("attention_bias", "biases are not supported")?;
    f.unsupported("mlp_bias", "biases are not supported")?;
    f.unsupported("rope_interleaved", "interleaved rotation is not supported")?;
    if let Some(scaling) = f.given("rope_scaling") {
        default_rope(f, "rope_scaling", scaling)?;
    }

    let hidden_size = f.whole("hidden_size", 1, MAX_WIDTH, None)?;
    let num_attention_heads = f.whole("num_attention_heads", 1, MAX_HEADS, None)?;
    let num_key_value_heads = f.whole_or_null("num_key_value_heads", 1, MAX_HEADS)?.unwrap_or(num_attention_heads);
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        let rule =
            format!("expected a divisor of num_attention_heads {num_attention_heads}, found {num_key_value_heads}");
        return Err(f.error("num_key_value_heads", rule));
    }
    let head_dim = match f.whole_or_null("head_dim", 1, MAX_WIDTH)? {
        Some(given) => given,
        None => {
            heads_divide(f, hidden_size, num_attention_heads)?;
            hidden_size / num_attention_heads
        }
    };
    if !head_dim.is_multiple_of(2) {
        let key = if f.given("head_dim").is_some() { "head_dim" } else { "hidden_size" };
        return Err(f.error(key, format!("rotary embedding needs an even width of a head, found {head_dim}")));
    }

    let vocab_size = f.whole("vocab_size", 1, MAX_VOCAB, None)?;
    let id = |key, default: u32| {
        let id = f.whole_or_null(key, 0, vocab_size - 1)?;
        Ok(id.map_or(default, |id| id as u32))
    };
    // The top level goes before `qllama_config`, field by field.
    let over = |key| whole.map(|(top, _)| top).filter(|top| top.get(key).is_some()).unwrap_or(f);
    let cross_fields = ["num_query_token", "cross_attention_frequency", "vision_hidden_size"];
    let cross_attention = whole.is_some() || cross_fields.iter().any(|key| f.given(key).is_some());
    let rope_theta = rope_theta(f)?;
    let text = LlamaConfig {
        hidden_size,
        intermediate_size: f.whole("intermediate_size", 1, MAX_WIDTH, None)?,
        num_hidden_layers: f.whole("num_hidden_layers", 1, MAX_LAYERS, None)?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size,
        max_position_embeddings: f.whole("max_position_embeddings", 1, MAX_POSITIONS, None)?,
        rms_norm_eps: f.positive("rms_norm_eps", None)?,
        rope_theta: if cross_attention { ROPE_BASE } else { rope_theta },
        tie_word_embeddings: f.flag("tie_word_embeddings", Some(false))?,
        bos_token_id: id("bos_token_id", 1)?,
        eos_token_ids: end_ids(f, vocab_size)?,
        pad_token_id: id("pad_token_id", 0)?,
        num_query_token: over("num_query_token").whole("num_query_token", 1, MAX_QUERIES, Some(96))?,
        cross_attention_frequency: over("cross_attention_frequency").whole(
            "cross_attention_frequency",
            1,
            MAX_LAYERS,
            Some(2),
        )?,
        vision_hidden_size: f
            .whole_or_null("vision_hidden_size", 1, MAX_WIDTH)?
            .unwrap_or(whole.map_or(3200, |(_, vision)| vision.hidden_size)),
        cross_attention,
    };
    if let Some((_, vision)) = whole
        && text.vision_hidden_size != vision.hidden_size
    {
        let rule =
            format!("expected vision_config's hidden_size {}, found {}", vision.hidden_size, text.vision_hidden_size);
        return Err(f.error("vision_hidden_size", rule));
    }
    if text.cross_attention {
        text.check_cross_attention().map_err(|(key, rule)| f.error(key, rule))?;
    }
    Ok(text)
}

/// `rope_theta`, which newer files keep inside `rope_parameters`.
fn rope_theta(f: &Fields) -> Result<f32> {
    let Some(parameters) = f.given("rope_parameters") else {
        return f.positive("rope_theta", Some(ROPE_BASE));
    };
    let at = f.pointer("rope_parameters");
    default_rope(f, "rope_parameters", parameters)?;
    let base = f.positive("rope_theta", Some(ROPE_BASE))?;
    Fields::of(f.file(), &at, parameters)?.positive("rope_theta", Some(base))
}

/// Only positions that are used as they are: `rope_type` (older: `type`) is `default`.
fn default_rope(f: &Fields, key: &str, json: &Json) -> Result<()> {
    let at = f.pointer(key);
    let rope = Fields::of(f.file(), &at, json)?;
    let kind = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    match rope.get(kind) {
        Some(Json::Text(t)) if t == "default" => Ok(()),
        None if key == "rope_parameters" => Ok(()),
        _ => Err(rope.unexpected(kind, "default, as scaled positions are not supported")),
    }
}

/// `eos_token_id`: one id, a list of them, or null.
fn end_ids(f: &Fields, vocab_size: usize) -> Result<Vec<u32>> {
    let key = "eos_token_id";
    let whole = |json: &Json| match json {
        Json::Whole(n) if *n < vocab_size as u64 => Ok(*n as u32),
        other => {
            let rule = format!("expected ids below vocab_size {vocab_size}, found {}", other.kind());
            Err(f.error(key, rule))
        }
    };
    match f.get(key) {
        None => Ok(vec![2]),
        Some(Json::Null) => Ok(Vec::new()),
        Some(Json::List(list)) => list.iter().map(whole).collect(),
        Some(one) => Ok(vec![whole(one)?]),
    }
}
