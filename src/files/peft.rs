//! LoRA adapters as Python's `peft` writes them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Source: <https://github.com/huggingface/peft> (`tuners/lora/config.py`, `utils/save_and_load.py`).

use std::collections::{BTreeMap, BTreeSet};

use crate::device::Array;
use crate::error::{Error, Result, printable};
use crate::files::json::{Fields, Json, duplicate, parse};
use crate::files::safetensors::{NamedTensor, read_tensors, tensors_to_bytes};
use crate::files::source::{Source, not_found, read_small};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Larger adapters than this are refused: one of rank 64 for a model of 14 billion numbers has 0.6 GiB.
const MAX_BYTES: u64 = 4 << 30;
/// What `peft` puts in front of a module's name.
const WRAPPER: &str = "base_model.model.";

/// An adapter's numbers, on the host.
#[derive(Debug, Clone, Default)]
pub struct AdapterWeights {
    /// What messages call it.
    pub name: String,
    /// By the module's name in a checkpoint whose decoder has no prefix: `model.layers.0.self_attn.q_proj`,
    /// `vision_model.encoder.layers.0.attn.qkv`.
    pub modules: BTreeMap<String, LowRank>,
    /// Whole tensors that were trained beside the adapters (`modules_to_save`), by the checkpoint's names, such as
    /// `lm_head.weight`.
    pub saved: BTreeMap<String, Array<f32>>,
}

/// What one module learned: `y += scale * (x A^T) B^T`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// [r, in]
    pub a: Array<f32>,
    /// [out, r]
    pub b: Array<f32>,
    pub scale: f32,
    /// The module's name in the file: `base_model.model.` and its name inside what was wrapped.
    pub stored_name: String,
}

/// The fields of `adapter_config.json` that say how the tensors are used.
struct Config {
    alpha: f32,
    /// Alphas of modules, by the ends of their names.
    alphas: Vec<(String, f32)>,
    rank_stabilised: bool,
}

impl Config {
    fn read(bytes: &[u8]) -> Result<Config> {
        let json = parse(CONFIG, bytes)?;
        if let Some(place) = duplicate(&json) {
            return Err(Error::DuplicateKey { file: CONFIG.into(), key: place });
        }
        let fields = Fields::of(CONFIG, "", &json)?;
        fields.word("peft_type", &["LORA"])?;
        for (key, what) in [("use_dora", "DoRA"), ("fan_in_fan_out", "weights stored the other way round")] {
            if fields.flag(key, Some(false))? {
                return Err(fields.error(key, format!("{what} is not supported")));
            }
        }
        if let Some(Json::Text(bias)) = fields.given("bias")
            && bias != "none"
        {
            return Err(fields.error("bias", format!("trained biases ({:?}) are not supported", printable(bias))));
        }
        // The tensors say the ranks; a rank of 0 would divide by it.
        fields.whole("r", 1, 1 << 16, None)?;
        let mut alphas = Vec::new();
        if let Some(json) = fields.given("alpha_pattern") {
            let at = fields.pointer("alpha_pattern");
            let patterns = Fields::of(CONFIG, &at, json)?;
            for (key, _) in patterns.all() {
                alphas.push((key.clone(), patterns.positive(key, None)?));
            }
        }
        Ok(Config {
            alpha: fields.positive("lora_alpha", None)?,
            alphas,
            rank_stabilised: fields.flag("use_rslora", Some(false))?,
        })
    }

    /// What the product of a module's adapter is multiplied by.
    fn scale(&self, module: &str, rank: usize) -> f32 {
        let ends = |key: &str| module == key || module.ends_with(&format!(".{key}"));
        let alpha = self.alphas.iter().find(|(key, _)| ends(key)).map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f32;
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }
}

impl AdapterWeights {
    /// Reads an adapter's folder.
    ///
    /// # Errors
    /// `E_IO` where a file is missing; `E_CONFIG` for what the engine does not support; the header's errors; `E_SHAPE` for
    /// an A without its B, or of another rank; `E_NONFINITE`.
    pub async fn read(source: &dyn Source) -> Result<AdapterWeights> {
        let config = read_small(source, CONFIG, 1 << 20).await?.ok_or_else(|| not_found(CONFIG, source))?;
        let weights = read_small(source, WEIGHTS, MAX_BYTES).await?.ok_or_else(|| not_found(WEIGHTS, source))?;
        AdapterWeights::from_bytes(&source.describe(), &config, &weights)
    }

    /// As [`AdapterWeights::read`], from the bytes of both files.
    ///
    /// # Errors
    /// As [`AdapterWeights::read`].
    pub fn from_bytes(name: &str, config: &[u8], weights: &[u8]) -> Result<AdapterWeights> {
        let config = Config::read(config)?;
        let mut halves: BTreeMap<String, [Option<Array<f32>>; 2]> = BTreeMap::new();
        let mut out = AdapterWeights { name: name.into(), ..Default::default() };
        for (name, tensor) in read_tensors(WEIGHTS, weights)? {
            let array = finite(&tensor)?;
            match half_of(&name) {
                Some((module, half)) => halves.entry(module.into()).or_default()[half] = Some(array),
                None => {
                    let name = checkpoint_name(&name).ok_or_else(|| unknown(&name))?;
                    out.saved.insert(name, array);
                }
            }
        }
        for (stored_name, halves) in halves {
            let module = checkpoint_name(&stored_name).ok_or_else(|| unknown(&stored_name))?;
            let [Some(a), Some(b)] = halves else {
                let expected = "both lora_A.weight and lora_B.weight".into();
                return Err(Error::Shape { what: printable(&stored_name), expected, found: "one of them".into() });
            };
            let fits = matches!((&a.shape[..], &b.shape[..]), (&[r, _], &[_, rank]) if r == rank && r > 0);
            if !fits {
                let found = format!("{:?} and {:?}", a.shape, b.shape);
                let expected = "lora_A [r, in] and lora_B [out, r]".into();
                return Err(Error::Shape { what: printable(&stored_name), expected, found });
            }
            let scale = config.scale(&module, a.shape[0]);
            out.modules.insert(module, LowRank { a, b, scale, stored_name });
        }
        if out.modules.is_empty() && out.saved.is_empty() {
            return Err(Error::Input { reason: format!("{WEIGHTS}: no adapter and no trained tensor is in it") });
        }
        Ok(out)
    }

    /// Several adapters as one; no module may have two.
    ///
    /// # Errors
    /// `E_INPUT` naming a module that has two.
    pub fn joined(all: Vec<AdapterWeights>) -> Result<AdapterWeights> {
        let mut joined = AdapterWeights::default();
        let twice = |name: &str| Error::Input { reason: format!("two adapters have weights for {}", printable(name)) };
        for one in all {
            joined.name = if joined.name.is_empty() { one.name } else { format!("{} and {}", joined.name, one.name) };
            for (module, low_rank) in one.modules {
                if joined.modules.contains_key(&module) {
                    return Err(twice(&module));
                }
                joined.modules.insert(module, low_rank);
            }
            for (name, array) in one.saved {
                if joined.saved.contains_key(&name) {
                    return Err(twice(&name));
                }
                joined.saved.insert(name, array);
            }
        }
        Ok(joined)
    }
}

/// The bytes of an adapter's two files.
pub struct AdapterFiles {
    pub config: Vec<u8>,
    pub weights: Vec<u8>,
}

impl AdapterWeights {
    /// What `peft` reads: `PeftModel.from_pretrained(model.qllama, folder)`. `base` is the name of the model that the
    /// adapter is for.
    ///
    /// # Errors
    /// `E_INPUT` where two tensors have one name.
    pub fn to_files(&self, base: &str) -> Result<AdapterFiles> {
        let mut tensors = Vec::new();
        let (mut targets, mut ranks, mut alphas) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        for (module, low_rank) in &self.modules {
            let LowRank { a, b, scale, stored_name } = low_rank;
            tensors.push(NamedTensor::f32(format!("{stored_name}.lora_A.weight"), &a.shape, &a.values));
            tensors.push(NamedTensor::f32(format!("{stored_name}.lora_B.weight"), &b.shape, &b.values));
            targets.insert(target_of(module));
            ranks.insert(module.clone(), a.shape[0]);
            alphas.insert(module.clone(), scale * a.shape[0] as f32);
        }
        for (name, array) in &self.saved {
            tensors.push(NamedTensor::f32(format!("{WRAPPER}{name}"), &array.shape, &array.values));
        }
        let (r, alpha) = (ranks.values().copied().max().unwrap_or(1), alphas.values().copied().fold(1.0, f32::max));
        // Patterns name what differs from the rest.
        ranks.retain(|_, rank| *rank != r);
        alphas.retain(|_, other| *other != alpha);
        let saved: Vec<&str> = self.saved.keys().map(|name| name.strip_suffix(".weight").unwrap_or(name)).collect();
        let config = serde_json::json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": base,
            "r": r,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "modules_to_save": if saved.is_empty() { None } else { Some(saved) },
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "inference_mode": true,
            "use_rslora": false,
            "use_dora": false,
        });
        let config = serde_json::to_vec_pretty(&config).expect("plain JSON");
        Ok(AdapterFiles { config, weights: tensors_to_bytes(&tensors)? })
    }

    /// Writes an adapter's folder; each file appears whole or not at all.
    ///
    /// # Errors
    /// `E_IO`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, folder: &std::path::Path, base: &str) -> Result<()> {
        let files = self.to_files(base)?;
        let name = |path: &std::path::Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::fs::create_dir_all(folder).map_err(|e| Error::Io { file: name(folder), reason: e.to_string() })?;
        // The weights first: a configuration without them names what is not there.
        for (file, bytes) in [(WEIGHTS, files.weights), (CONFIG, files.config)] {
            let (path, part) = (folder.join(file), folder.join(format!("{file}.part")));
            let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, &path));
            written.map_err(|e| {
                let _ = std::fs::remove_file(&part);
                Error::Io { file: file.into(), reason: e.to_string() }
            })?;
        }
        Ok(())
    }
}

/// What `target_modules` calls a module: the last two parts of its name.
fn target_of(module: &str) -> String {
    let parts: Vec<&str> = module.rsplitn(3, '.').take(2).collect();
    format!("{}.{}", parts[1], parts[0])
}

/// The module that a tensor belongs to, and whether it is its A (0) or B (1).
fn half_of(name: &str) -> Option<(&str, usize)> {
    let ends =
        [(".lora_A.weight", 0), (".lora_B.weight", 1), (".lora_A.default.weight", 0), (".lora_B.default.weight", 1)];
    ends.into_iter().find_map(|(end, half)| Some((name.strip_suffix(end)?, half)))
}

/// The name in a checkpoint whose decoder has no prefix, whatever was wrapped: QLLaMA, InternViT or the whole.
fn checkpoint_name(stored: &str) -> Option<String> {
    let name = stored.strip_prefix(WRAPPER)?;
    let name = name.strip_prefix("qllama.").unwrap_or(name);
    Some(if name.starts_with("encoder.") { format!("vision_model.{name}") } else { name.into() })
}

fn unknown(name: &str) -> Error {
    let reason = format!("{WEIGHTS}: {} does not begin with {WRAPPER}: not what peft writes", printable(name));
    Error::Input { reason }
}

fn finite(tensor: &NamedTensor) -> Result<Array<f32>> {
    let values = tensor.to_f32()?;
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NonFinite { what: printable(&tensor.name), index: index as u64 }),
        None => Ok(Array::new(&tensor.shape, values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}"#;

    fn weights(tensors: &[(&str, &[usize])]) -> Vec<u8> {
        let tensor = |(name, shape): &(&str, &[usize])| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32).collect();
            NamedTensor::f32(*name, shape, &values)
        };
        tensors_to_bytes(&tensors.iter().map(tensor).collect::<Vec<_>>()).unwrap()
    }

    fn pair(module: &str) -> [(String, Vec<usize>); 2] {
        [(format!("{module}.lora_A.weight"), vec![2, 3]), (format!("{module}.lora_B.weight"), vec![5, 2])]
    }

    #[test]
    fn modules_are_named_as_in_the_checkpoint() {
        for (stored, wanted) in [
            ("base_model.model.model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"),
            ("base_model.model.qllama.model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"),
            ("base_model.model.encoder.layers.1.attn.qkv", "vision_model.encoder.layers.1.attn.qkv"),
            ("base_model.model.vision_model.encoder.layers.1.attn.qkv", "vision_model.encoder.layers.1.attn.qkv"),
        ] {
            let pair = pair(stored);
            let tensors: Vec<_> = pair.iter().map(|(name, shape)| (&name[..], &shape[..])).collect();
            let read = AdapterWeights::from_bytes("it", PLAIN.as_bytes(), &weights(&tensors)).unwrap();
            let low_rank = &read.modules[wanted];
            assert_eq!((low_rank.a.shape.clone(), low_rank.b.shape.clone()), (vec![2, 3], vec![5, 2]));
            assert_eq!((low_rank.scale, &low_rank.stored_name[..]), (2.0, stored));
        }
    }

    #[test]
    fn scales_follow_the_config() {
        let pair = pair("base_model.model.model.layers.0.mlp.up_proj");
        let tensors: Vec<_> = pair.iter().map(|(name, shape)| (&name[..], &shape[..])).collect();
        for (config, scale) in [
            (r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 4, "use_rslora": true}"#, 4.0 / 2.0f32.sqrt()),
            (r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"up_proj": 6}}"#, 3.0),
            (r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"p_proj": 6}}"#, 2.0),
        ] {
            let read = AdapterWeights::from_bytes("it", config.as_bytes(), &weights(&tensors)).unwrap();
            assert_eq!(read.modules["model.layers.0.mlp.up_proj"].scale, scale, "{config}");
        }
    }

    /// What is written is read again as it was, ranks and scales of their own included.
    #[test]
    fn adapters_come_back() {
        let low_rank = |rank: usize, scale: f32, stored: &str| LowRank {
            a: Array::new(&[rank, 3], (0..rank * 3).map(|i| i as f32).collect()),
            b: Array::new(&[5, rank], (0..rank * 5).map(|i| -(i as f32)).collect()),
            scale,
            stored_name: stored.into(),
        };
        let mut weights = AdapterWeights { name: "it".into(), ..Default::default() };
        for (i, (rank, scale)) in [(2, 2.0), (2, 2.0), (1, 2.0), (2, 0.5)].into_iter().enumerate() {
            let module = format!("model.layers.{i}.mlp.up_proj");
            let stored = format!("base_model.model.{module}");
            weights.modules.insert(module, low_rank(rank, scale, &stored));
        }
        weights.saved.insert("lm_head.weight".into(), Array::new(&[2, 2], vec![1.0, 2.0, 3.0, 4.0]));
        let AdapterFiles { config, weights: bytes } = weights.to_files("base").unwrap();
        let read = AdapterWeights::from_bytes("it", &config, &bytes).unwrap();
        assert_eq!((&read.modules, &read.saved), (&weights.modules, &weights.saved));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let whole: [(&str, &[usize]); 2] =
            [("base_model.model.m.lora_A.weight", &[2, 3]), ("base_model.model.m.lora_B.weight", &[5, 2])];
        let fault = |config: &str, tensors: &[(&str, &[usize])]| {
            let error = AdapterWeights::from_bytes("it", config.as_bytes(), &weights(tensors)).unwrap_err();
            (error.code(), error.to_string())
        };
        for (field, named) in [
            (r#""use_dora": true"#, "DoRA"),
            (r#""bias": "all""#, "biases"),
            (r#""fan_in_fan_out": true"#, "fan_in_fan_out"),
            (r#""r": 0"#, "/r"),
        ] {
            let config = match field.starts_with("\"r\"") {
                true => format!(r#"{{"peft_type": "LORA", "lora_alpha": 4, {field}}}"#),
                false => format!(r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 4, {field}}}"#),
            };
            let (code, text) = fault(&config, &whole);
            assert!(code == "E_CONFIG" && text.contains(named), "{field}: {code}: {text}");
        }
        assert_eq!(fault(r#"{"peft_type": "LOHA", "r": 2, "lora_alpha": 4}"#, &whole).0, "E_CONFIG");
        assert_eq!(fault(PLAIN, &whole[..1]).0, "E_SHAPE");
        assert_eq!(fault(PLAIN, &[whole[0], ("base_model.model.m.lora_B.weight", &[5, 3])]).0, "E_SHAPE");
        assert_eq!(fault(PLAIN, &[("lm_head.weight", &[2, 3])]).0, "E_INPUT");
        assert_eq!(fault(PLAIN, &[]).0, "E_INPUT");
        let nan = NamedTensor::f32("base_model.model.lm_head.weight", &[1], &[f32::NAN]);
        let bytes = tensors_to_bytes(&[nan]).unwrap();
        assert_eq!(AdapterWeights::from_bytes("it", PLAIN.as_bytes(), &bytes).unwrap_err().code(), "E_NONFINITE");
    }
}
