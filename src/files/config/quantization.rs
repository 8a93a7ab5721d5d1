//! `quantization_config` of compressed-tensors checkpoints: which matrices are packed, and how.
//!
//! Source: <https://github.com/vllm-project/compressed-tensors> (`quantization/quant_args.py`, `utils/match.py`).

use super::pattern::Pattern;
use crate::error::Result;
use crate::files::json::{Fields, Json, pointer};

/// How the matrices of one group are packed: integers of `num_bits` bits, low bits first, 32 bits a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizationScheme {
    /// 4 or 8.
    pub num_bits: usize,
    /// Without zero points: stored values are offset by `2^(num_bits - 1)` only.
    pub symmetric: bool,
    /// Neighbouring columns that share a scale; `None` is one scale a row ("channel").
    pub group_size: Option<usize>,
}

/// The modules that one scheme is for.
#[derive(Debug, Clone)]
pub struct QuantizationGroup {
    /// Module names, `re:` patterns or class names.
    pub targets: Vec<Target>,
    /// How they are packed.
    pub weights: QuantizationScheme,
}

/// One entry of `targets` or `ignore`.
#[derive(Debug, Clone)]
pub enum Target {
    /// The name of a module, such as `lm_head`, or of a class, such as `Linear`.
    Name(String),
    /// `re:PATTERN`: matches from the start of a module's name, as Python's `re.match` does.
    Pattern(Pattern),
}

impl Target {
    /// Reads an entry as it stands in the file.
    ///
    /// # Errors
    /// What is wrong with the pattern behind `re:`, or not supported.
    pub fn parse(text: &str) -> std::result::Result<Target, String> {
        match text.strip_prefix("re:") {
            Some(pattern) => Pattern::new(pattern).map(Target::Pattern),
            None => Ok(Target::Name(text.into())),
        }
    }

    /// Whether this is the module's name, or a pattern that matches it.
    pub fn is_for(&self, name: &str) -> bool {
        match self {
            Target::Name(n) => n == name,
            Target::Pattern(p) => p.matches_start(name),
        }
    }
}

/// Which matrices are packed. The checkpoint's own tensor names have the last word: a matrix is packed where
/// `NAME.weight_packed` stands in place of `NAME.weight`.
#[derive(Debug, Clone)]
pub struct QuantizationConfig {
    /// Modules that stay as they are, whatever the groups say.
    pub ignore: Vec<Target>,
    /// One group or more.
    pub groups: Vec<QuantizationGroup>,
}

impl QuantizationConfig {
    /// How the module `name` (a weight's name without `.weight`) of class `class` (`Linear`, `Embedding`, ...) is
    /// packed, or `None` where it is not. A target that is the module's name goes before a pattern, that before a class.
    pub fn scheme_for(&self, name: &str, class: &str) -> Option<QuantizationScheme> {
        let rank = |target: &Target| match target {
            Target::Name(n) if n == name => Some(0),
            Target::Pattern(p) if p.matches_start(name) => Some(1),
            Target::Name(n) if n == class => Some(2),
            _ => None,
        };
        if self.ignore.iter().any(|target| rank(target).is_some()) {
            return None;
        }
        let ranked = self.groups.iter().filter_map(|g| Some((g.targets.iter().filter_map(rank).min()?, g.weights)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, scheme)| scheme)
    }

    /// Reads the object `quantization_config` at the JSON pointer `at`.
    pub(super) fn read(file: &str, at: &str, json: &Json) -> Result<QuantizationConfig> {
        let f = Fields::of(file, at, json)?;
        if !matches!(f.get("quant_method"), Some(Json::Text(t)) if t == "compressed-tensors") {
            return Err(f.unexpected("quant_method", "compressed-tensors, the only method that is read"));
        }
        // A file of groups in several formats says "mixed-precision"; then each group must be pack-quantized itself.
        let format = f.word("format", &["none", "pack-quantized", "mixed-precision"])?;
        f.word("quantization_status", &["compressed"])?;
        f.unsupported("kv_cache_scheme", "quantized key-value caches are not supported")?;
        f.unsupported("transform_config", "transformed weights are not supported")?;
        if let Some(sparsity) = f.given("sparsity_config") {
            let at = f.pointer("sparsity_config");
            Fields::of(file, &at, sparsity)?.word("format", &["dense"])?;
        }

        let groups_at = f.pointer("config_groups");
        let groups = match f.get("config_groups") {
            Some(groups) => Fields::of(file, &groups_at, groups)?.all(),
            None => return Err(f.unexpected("config_groups", "an object of groups")),
        };
        if groups.is_empty() {
            return Err(f.error("config_groups", "expected one group or more, found none"));
        }
        let groups = groups
            .iter()
            .map(|(key, group)| read_group(file, &pointer(&groups_at, key), group, format))
            .collect::<Result<_>>()?;
        Ok(QuantizationConfig { ignore: read_targets(&f, "ignore")?, groups })
    }
}

fn read_targets(f: &Fields, key: &str) -> Result<Vec<Target>> {
    f.texts(key)?.into_iter().map(|text| Target::parse(text).map_err(|rule| f.error(key, rule))).collect()
}

fn read_group(file: &str, at: &str, json: &Json, file_format: &str) -> Result<QuantizationGroup> {
    let f = Fields::of(file, at, json)?;
    let targets = read_targets(&f, "targets")?;
    if targets.is_empty() {
        return Err(f.error("targets", "expected a list of modules or classes, found none"));
    }
    if f.given("format").is_some() {
        f.word("format", &["pack-quantized"])?;
    } else if file_format != "pack-quantized" {
        return Err(f.unexpected("format", "pack-quantized, the only format that is read"));
    }
    f.unsupported("input_activations", "quantized activations are not supported")?;
    f.unsupported("output_activations", "quantized activations are not supported")?;

    let weights_at = f.pointer("weights");
    let weights = f.get("weights").ok_or_else(|| f.unexpected("weights", "an object"))?;
    let w = Fields::of(file, &weights_at, weights)?;
    let num_bits = match w.get("num_bits") {
        Some(Json::Whole(n @ (4 | 8))) => *n as usize,
        _ => return Err(w.unexpected("num_bits", "4 or 8")),
    };
    w.word("type", &["int"])?;
    w.unsupported("dynamic", "weights cannot be quantized dynamically")?;
    w.unsupported("block_structure", "blocks are not supported")?;
    if !matches!(w.given("actorder"), None | Some(Json::Bool(false))) {
        w.word("actorder", &["weight", "static"])?; // these two leave the stored order alone
    }
    let minus_one = w.get("group_size") == Some(&Json::Number(-1.0));
    let no_group = minus_one || w.given("group_size").is_none();
    // Without a strategy the package itself infers one from the group's size.
    let channel = match w.given("strategy") {
        Some(_) => w.word("strategy", &["group", "channel"])? == "channel",
        None => minus_one,
    };
    let group_size = match channel {
        true if no_group => None,
        true => return Err(w.unexpected("group_size", "null, as the strategy is channel")),
        false => Some(w.whole("group_size", 1, 1 << 20, None)?),
    };
    let scheme = QuantizationScheme { num_bits, symmetric: w.flag("symmetric", Some(true))?, group_size };
    Ok(QuantizationGroup { targets, weights: scheme })
}
