//! The sizes of the model.

use super::fields::Fields;
use super::head::TensorInfo;
use super::value::Value;
use crate::error::{Error, Result, printable};
use crate::files::config::Config;

/// Field of config.json, field of GGUF.
const SIZES: [(&str, &str); 9] = [
    ("hidden_size", "llama.embedding_length"),
    ("intermediate_size", "llama.feed_forward_length"),
    ("num_hidden_layers", "llama.block_count"),
    ("num_attention_heads", "llama.attention.head_count"),
    ("num_key_value_heads", "llama.attention.head_count_kv"),
    ("head_dim", "llama.attention.key_length"),
    ("max_position_embeddings", "llama.context_length"),
    ("rms_norm_eps", "llama.attention.layer_norm_rms_epsilon"),
    ("rope_theta", "llama.rope.freq_base"),
];

/// The sizes, through the same checks as a `config.json`'s.
pub(super) fn read_config(fields: &Fields, tensors: &[TensorInfo]) -> Result<Config> {
    check_family(fields, tensors)?;
    let vocab_size = vocab_size(fields, tensors)?;
    let mut json = serde_json::json!({ "model_type": "llama", "vocab_size": vocab_size });
    for (own, key) in SIZES {
        if let Some(value) = fields.json(key) {
            json[own] = value;
        }
    }
    let limit = vocab_size.min(u32::MAX.into()) as usize;
    if let Some(id) = fields.id("tokenizer.ggml.bos_token_id", limit)? {
        json["bos_token_id"] = id.into();
    }
    let mut ends = Vec::new();
    for kind in ["eos", "eot", "eom"] {
        ends.extend(fields.id(&format!("tokenizer.ggml.{kind}_token_id"), limit)?);
    }
    ends.dedup();
    json["eos_token_id"] = ends.into();
    json["tie_word_embeddings"] = tensors.iter().all(|t| t.name != "output.weight").into();
    let config = Config::from_bytes(fields.file, json.to_string().as_bytes()).map_err(|error| match error {
        Error::Config { file, pointer, rule } => {
            let own = SIZES.iter().find(|(own, _)| pointer.strip_prefix('/') == Some(own));
            let key = own.map_or(pointer.clone(), |(_, key)| (*key).into());
            let rule = SIZES.iter().fold(rule, |rule, (own, key)| rule.replace(own, key));
            Error::Config { file, pointer: key, rule }
        }
        other => other,
    })?;
    let head_dim = config.text.head_dim as u64;
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        match fields.values.get(key) {
            None => {}
            Some(Value::Whole(n)) if *n == head_dim => {}
            Some(_) => return Err(fields.unexpected(key, &format!("the width of a head, {head_dim}"))),
        }
    }
    Ok(config)
}

/// Refuses what is not of the LLaMA family, or not supported.
fn check_family(fields: &Fields, tensors: &[TensorInfo]) -> Result<()> {
    let architecture = "general.architecture";
    if fields.text(architecture)? != Some("llama") {
        return Err(fields.unexpected(architecture, "llama, the only family that is read"));
    }
    for (key, most) in [("llama.expert_count", 0), ("split.count", 1)] {
        match fields.values.get(key) {
            None => {}
            Some(Value::Whole(n)) if *n <= most => {}
            Some(_) if most == 0 => return Err(fields.unexpected(key, "0, as experts are not supported")),
            Some(_) => return Err(fields.unexpected(key, "1: join the parts to one file first")),
        }
    }
    match fields.text("llama.rope.scaling.type")? {
        None | Some("none") => {}
        Some(_) => {
            let rule = "none, as scaled positions are not supported";
            return Err(fields.unexpected("llama.rope.scaling.type", rule));
        }
    }
    if !matches!(fields.values.get("llama.rope.scale_linear"), None | Some(Value::Number(1.0))) {
        return Err(fields.unexpected("llama.rope.scale_linear", "1, as scaled positions are not supported"));
    }
    if tensors.iter().any(|t| t.name == "rope_freqs.weight") {
        return Err(fields.error("rope_freqs.weight", "scaled positions are not supported"));
    }
    if let Some(bias) = tensors.iter().find(|t| t.name.ends_with(".bias")) {
        return Err(fields.error(&printable(&bias.name), "biases are not supported"));
    }
    Ok(())
}

/// Rows of the embedding, as no field tells them.
fn vocab_size(fields: &Fields, tensors: &[TensorInfo]) -> Result<u64> {
    let embedding = "token_embd.weight";
    match tensors.iter().find(|t| t.name == embedding) {
        None => Err(Error::MissingTensor { names: embedding.into(), total: 1 }),
        Some(t) if t.shape.len() == 2 => Ok(t.shape[0]),
        Some(t) => Err(Error::Shape {
            what: format!("{}: tensor {embedding}", fields.file),
            expected: "[vocabulary, width]".into(),
            found: format!("{:?}", t.shape),
        }),
    }
}
