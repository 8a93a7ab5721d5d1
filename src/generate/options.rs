//! Hugging Face's generation options: one definition, of which the command line and JavaScript make theirs.

use crate::device::tensor::DType;
use crate::error::{Error, Result};
use crate::files::config::LlamaConfig;
use crate::generate::beams::{BeamOptions, EarlyStopping, candidates};
use crate::generate::check::check_ids;
use crate::ops::logits::sampling::{MAX_TEMPERATURE, MIN_TEMPERATURE, Sampling};
use crate::ops::logits::top_k::MAX_K;

/// How tokens are chosen: Hugging Face's names, rules and defaults, but for `max_new_tokens` and the seed.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most new tokens of a sequence, the end id included.
    pub max_new_tokens: usize,
    /// Fewest new tokens of a sequence before the end id.
    pub min_new_tokens: usize,
    /// Beams of the search, from 1 to 16; 1 is greedy search, or sampling.
    pub num_beams: usize,
    /// At most `num_beams`; when sampling, sequences drawn for each prompt.
    pub num_return_sequences: usize,
    /// Beam search divides a sequence's score by length^length_penalty.
    pub length_penalty: f32,
    pub early_stopping: EarlyStopping,
    /// Above 1 makes ids that are there already less likely.
    pub repetition_penalty: f32,
    /// So many ids in a row occur once only; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// The ids that end a sequence; `None`: the model's own.
    pub eos_token_ids: Option<Vec<u32>>,
    /// Draw tokens at random instead of taking the most likely.
    pub sampling: Option<Sampling>,
    /// Storage of cached keys and values; `None`: what the model was loaded with, f32 unless it was told otherwise.
    pub kv_cache: Option<KvCacheType>,
}

/// How cached keys and values are stored.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum KvCacheType {
    #[default]
    F32,
    /// Half the memory; rounds.
    F16,
}

impl KvCacheType {
    pub(crate) fn dtype(self) -> DType {
        match self {
            KvCacheType::F32 => DType::F32,
            KvCacheType::F16 => DType::F16,
        }
    }
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: 32,
            min_new_tokens: 0,
            num_beams: 1,
            num_return_sequences: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::False,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            eos_token_ids: None,
            sampling: None,
            kv_cache: None,
        }
    }
}

/// Options with everything that the model decides filled in.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub options: GenerateOptions,
    pub eos_token_ids: Vec<u32>,
    pub kv_cache: KvCacheType,
}

impl std::ops::Deref for Resolved {
    type Target = GenerateOptions;

    fn deref(&self) -> &GenerateOptions {
        &self.options
    }
}

impl Resolved {
    /// Sequences that run side by side for each prompt.
    pub(crate) fn copies(&self) -> usize {
        if self.sampling.is_some() { self.num_return_sequences } else { self.num_beams }
    }

    /// What beam search is to do.
    pub(crate) fn beams(&self) -> BeamOptions {
        BeamOptions {
            num_beams: self.num_beams,
            num_return_sequences: self.num_return_sequences,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
            max_new_tokens: self.max_new_tokens,
            eos_token_ids: self.eos_token_ids.clone(),
        }
    }

    pub(crate) fn penalised(&self) -> bool {
        self.repetition_penalty != 1.0 || self.no_repeat_ngram_size > 0 || self.min_new_tokens > 0
    }

    /// Whether an id ends a sequence.
    pub(crate) fn ends(&self, id: u32) -> bool {
        self.eos_token_ids.contains(&id)
    }

    /// The ids without those that end a sequence.
    pub(crate) fn without_ends(&self, ids: &[u32]) -> Vec<u32> {
        ids.iter().copied().filter(|&id| !self.ends(id)).collect()
    }

    /// Checks what depends on the prompt: positions within the model's limit, for `rows` rows that may be seen.
    ///
    /// # Errors
    /// `E_CONTEXT`.
    pub(crate) fn check_rows(&self, config: &LlamaConfig, rows: usize) -> Result<()> {
        // The last new token is never fed back.
        let need = rows + self.max_new_tokens - 1;
        let max = config.max_position_embeddings;
        if need > max { Err(Error::Context { need, max }) } else { Ok(()) }
    }
}

/// More than any model has positions.
const MAX_NEW_TOKENS: usize = i32::MAX as usize;

/// Sequences that may be drawn for one prompt.
const MAX_SEQUENCES: usize = 256;

fn wrong<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::Input { reason: reason.into() })
}

impl GenerateOptions {
    /// Checks the options for a model, and takes from it what they leave open.
    ///
    /// # Errors
    /// `E_INPUT` for a value out of range or a combination that is not supported, for beams when every id ends a text, and
    /// for a cache in f16 with heads that it does not take; `E_TOKEN` for an end id outside the vocabulary.
    pub(crate) fn resolve(&self, config: &LlamaConfig, kv_cache: KvCacheType) -> Result<Resolved> {
        self.check()?;
        let ends = self.eos_token_ids.clone().unwrap_or_else(|| config.eos_token_ids.clone());
        let kv_cache = self.kv_cache.unwrap_or(kv_cache);
        let vocab = config.vocab_size;
        check_ids(config, &ends)?;
        if self.num_beams > 1 {
            self.check_candidates(&ends)?;
            if (0..vocab as u32).all(|id| ends.contains(&id)) {
                return wrong(format!(
                    "all {vocab} ids of the vocabulary are end ids: beam search has nothing to continue with"
                ));
            }
        }
        if kv_cache == KvCacheType::F16 && !config.head_dim.is_multiple_of(4) {
            return wrong(format!("a cache in f16 needs heads of a multiple of 4 columns, found {}", config.head_dim));
        }
        Ok(Resolved { options: self.clone(), eos_token_ids: ends, kv_cache })
    }

    fn check_candidates(&self, ends: &[u32]) -> Result<()> {
        if self.num_beams > 1 && candidates(ends.len(), self.num_beams) > MAX_K {
            return wrong(format!(
                "too many end ids for so many beams: (1 + end ids) * num_beams must be at most {MAX_K}"
            ));
        }
        Ok(())
    }

    /// Checks what does not depend on the model.
    ///
    /// # Errors
    /// `E_INPUT` for a value out of range or a combination that is not supported.
    pub fn check(&self) -> Result<()> {
        if self.max_new_tokens == 0 {
            return wrong("max_new_tokens must be at least 1");
        }
        if self.max_new_tokens > MAX_NEW_TOKENS {
            return wrong(format!("max_new_tokens must be at most {MAX_NEW_TOKENS}, found {}", self.max_new_tokens));
        }
        if self.min_new_tokens > self.max_new_tokens {
            return wrong("min_new_tokens must not be above max_new_tokens");
        }
        if self.num_beams == 0 || self.num_beams > 16 {
            return wrong("num_beams must be from 1 to 16");
        }
        if self.num_beams > 1 && self.sampling.is_some() {
            return wrong("num_beams above 1 together with do_sample is not supported: use one of them");
        }
        let most = if self.sampling.is_some() { MAX_SEQUENCES } else { self.num_beams };
        let found = self.num_return_sequences;
        if found == 0 || found > most {
            return wrong(format!(
                "num_return_sequences must be from 1 to {most}, found {found}: at most num_beams, or {MAX_SEQUENCES} \
                 with do_sample"
            ));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("repetition_penalty must be above 0");
        }
        if !self.length_penalty.is_finite() {
            return wrong("length_penalty must be a finite number");
        }
        self.check_candidates(self.eos_token_ids.as_deref().unwrap_or_default())?;
        if let Some(s) = &self.sampling {
            if !(MIN_TEMPERATURE..=MAX_TEMPERATURE).contains(&s.temperature) {
                return wrong("temperature must be from 0.000001 to 1000000");
            }
            if !(s.top_p > 0.0 && s.top_p <= 1.0) {
                return wrong("top_p must be above 0 and at most 1");
            }
        }
        Ok(())
    }
}

/// One option as a front end offers it.
#[derive(Clone, Copy, Debug)]
pub struct OptionField {
    /// Hugging Face's name.
    pub name: &'static str,
    pub takes: Takes,
    /// As [`GenerateOptions::parse`] takes it; empty where the model decides.
    pub default: &'static str,
    pub help: &'static str,
}

/// What an option takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Takes {
    /// A whole number of at least 0.
    Whole,
    /// A finite number.
    Number,
    /// `true` or `false`.
    Flag,
    /// Whole numbers, separated by commas.
    Ids,
    /// One of these words, each with what it means.
    OneOf(&'static [(&'static str, &'static str)]),
}

const STOPPING: Takes = Takes::OneOf(&[
    ("false", "when no open beam is likely to become better"),
    ("true", "as soon as there are as many finished sequences as beams"),
    ("never", "when no open beam can become better"),
]);
const CACHE: Takes = Takes::OneOf(&[("f32", "as they are"), ("f16", "half the memory, rounded")]);

const fn field(name: &'static str, takes: Takes, default: &'static str, help: &'static str) -> OptionField {
    OptionField { name, takes, default, help }
}

impl GenerateOptions {
    /// All options, for front ends to offer.
    pub const FIELDS: &'static [OptionField] = &[
        field("max_new_tokens", Takes::Whole, "32", "Most new tokens of a sequence, the end id included"),
        field("min_new_tokens", Takes::Whole, "0", "Fewest new tokens of a sequence before the end id"),
        field("num_beams", Takes::Whole, "1", "Beams of the search, from 1 to 16; 1 is greedy search, or sampling"),
        field("num_return_sequences", Takes::Whole, "1", "Sequences a prompt: at most the beams, or 256 when sampling"),
        field(
            "length_penalty",
            Takes::Number,
            "1",
            "Beam search divides a sequence's score by length to this power: above 0 favours long ones",
        ),
        field(
            "early_stopping",
            STOPPING,
            "false",
            "When beam search stops that has as many finished sequences as beams",
        ),
        field("repetition_penalty", Takes::Number, "1", "Above 1 makes ids that are there already less likely"),
        field("no_repeat_ngram_size", Takes::Whole, "0", "So many ids in a row never occur twice; 0 allows all"),
        field("eos_token_id", Takes::Ids, "", "Ids that end a sequence, separated by commas; the model's unless given"),
        field(
            "do_sample",
            Takes::Flag,
            "false",
            "Draw tokens at random instead of taking the most likely; not with beams",
        ),
        field(
            "temperature",
            Takes::Number,
            "1",
            "When sampling: below 1 favours likely tokens, above 1 evens them out",
        ),
        field("top_k", Takes::Whole, "50", "When sampling: draw among so many of the most likely tokens; 0 is all"),
        field("top_p", Takes::Number, "1", "When sampling: draw among the likeliest tokens that have this probability"),
        field("seed", Takes::Whole, "0", "When sampling: the same seed draws the same numbers on every adapter"),
        field("kv_cache", CACHE, "", "Storage of cached keys and values: f32, or f16 for half the memory, rounded"),
    ];

    /// Makes options of pairs of a name out of [`GenerateOptions::FIELDS`] and a value in words; what is not given has its
    /// default. Values are not checked beyond their form: [`GenerateOptions::check`] does that.
    ///
    /// # Errors
    /// `E_INPUT` for a name that is no option, a value of another form, and for an option of sampling without `do_sample`.
    pub fn parse<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<GenerateOptions> {
        let mut options = GenerateOptions::default();
        let mut sampling = Sampling::default();
        let (mut sample, mut of_sampling) = (false, None);
        for (name, value) in given {
            let field = GenerateOptions::FIELDS.iter().find(|field| field.name == name);
            let Some(field) = field else { return wrong(format!("{name:?} is no option of generation")) };
            let name = field.name;
            match name {
                "max_new_tokens" => options.max_new_tokens = whole(name, value)?,
                "min_new_tokens" => options.min_new_tokens = whole(name, value)?,
                "num_beams" => options.num_beams = whole(name, value)?,
                "num_return_sequences" => options.num_return_sequences = whole(name, value)?,
                "length_penalty" => options.length_penalty = number(name, value)?,
                "early_stopping" => {
                    options.early_stopping = match one_of(field, value)? {
                        "true" => EarlyStopping::True,
                        "never" => EarlyStopping::Never,
                        _ => EarlyStopping::False,
                    }
                }
                "repetition_penalty" => options.repetition_penalty = number(name, value)?,
                "no_repeat_ngram_size" => options.no_repeat_ngram_size = whole(name, value)?,
                "eos_token_id" => {
                    let ids = value.split(',').filter(|id| !id.trim().is_empty());
                    options.eos_token_ids = Some(ids.map(|id| whole(name, id.trim())).collect::<Result<_>>()?);
                }
                "do_sample" => sample = flag(name, value)?,
                "temperature" => sampling.temperature = number(name, value)?,
                "top_k" => sampling.top_k = whole(name, value)?,
                "top_p" => sampling.top_p = number(name, value)?,
                "seed" => sampling.seed = whole(name, value)?,
                "kv_cache" => {
                    let f16 = one_of(field, value)? == "f16";
                    options.kv_cache = Some(if f16 { KvCacheType::F16 } else { KvCacheType::F32 });
                }
                _ => unreachable!("every field is read above"),
            }
            if matches!(name, "temperature" | "top_k" | "top_p" | "seed") {
                of_sampling = Some(name);
            }
        }
        if let (false, Some(name)) = (sample, of_sampling) {
            return wrong(format!("{name} belongs to sampling: set do_sample too"));
        }
        options.sampling = sample.then_some(sampling);
        Ok(options)
    }
}

fn whole<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().or_else(|_| wrong(format!("{name}: expected a whole number of at least 0, found {value:?}")))
}

fn number(name: &str, value: &str) -> Result<f32> {
    match value.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => wrong(format!("{name}: expected a finite number, found {value:?}")),
    }
}

fn flag(name: &str, value: &str) -> Result<bool> {
    value.parse().or_else(|_| wrong(format!("{name}: expected true or false, found {value:?}")))
}

fn one_of<'a>(field: &OptionField, value: &'a str) -> Result<&'a str> {
    let Takes::OneOf(words) = field.takes else { unreachable!("{} takes no word", field.name) };
    if words.iter().any(|(word, _)| *word == value) {
        return Ok(value);
    }
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    wrong(format!("{}: expected {}, found {value:?}", field.name, words.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::config::Config;

    fn config() -> LlamaConfig {
        let text = include_str!("../../tests/data/fixtures/qllama-base/config.json");
        Config::from_bytes("config.json", text.as_bytes()).unwrap().text
    }

    #[test]
    fn the_fields_defaults_are_the_defaults() {
        let stated = GenerateOptions::FIELDS.iter().filter(|f| !f.default.is_empty());
        let without_sampling = stated.clone().filter(|f| !["temperature", "top_k", "top_p", "seed"].contains(&f.name));
        assert_eq!(GenerateOptions::parse(without_sampling.map(|f| (f.name, f.default))).unwrap(), Default::default());
        let all = stated.map(|f| if f.name == "do_sample" { (f.name, "true") } else { (f.name, f.default) });
        let sampling = GenerateOptions::parse(all).unwrap().sampling;
        assert_eq!(sampling, Some(Sampling::default()));
        assert_eq!(Sampling::default().top_k, 50);
    }

    #[test]
    fn every_field_changes_the_options() {
        for field in GenerateOptions::FIELDS {
            let value = match field.takes {
                Takes::Whole => "3",
                Takes::Number => "0.5",
                Takes::Flag => "true",
                Takes::Ids => "3,4",
                Takes::OneOf(words) => words.last().unwrap().0,
            };
            let of_sampling = ["temperature", "top_k", "top_p", "seed"].contains(&field.name);
            let given = [("do_sample", "true"), (field.name, value)];
            let before = GenerateOptions::parse(of_sampling.then_some(given[0])).unwrap();
            let after = GenerateOptions::parse(given[usize::from(!of_sampling)..].iter().copied()).unwrap();
            assert_ne!(before, after, "{}", field.name);
        }
    }

    #[test]
    fn wrong_words_are_told() {
        for (name, value, part) in [
            ("num_beams", "-1", "num_beams: expected a whole number"),
            ("num_beams", "1.5", "num_beams"),
            ("length_penalty", "inf", "finite"),
            ("do_sample", "yes", "true or false"),
            ("early_stopping", "soon", "false or true or never"),
            ("kv_cache", "f64", "f32 or f16"),
            ("eos_token_id", "1,x", "eos_token_id"),
            ("seed", "3", "do_sample"),
            ("beams", "3", "no option"),
        ] {
            let error = GenerateOptions::parse([(name, value)]).unwrap_err();
            assert_eq!(error.code(), "E_INPUT");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn end_ids_come_from_the_model() {
        let mut config = config();
        config.eos_token_ids = vec![7, 9];
        let resolved = |options: GenerateOptions| options.resolve(&config, KvCacheType::F32).unwrap();
        assert_eq!(resolved(GenerateOptions::default()).eos_token_ids, [7, 9]);
        let own = GenerateOptions { eos_token_ids: Some(vec![3]), ..Default::default() };
        assert_eq!(resolved(own).without_ends(&[3, 7, 9, 3]), [7, 9]);
    }

    #[test]
    fn beams_need_an_id_that_ends_nothing() {
        let mut config = config();
        config.vocab_size = 3;
        let resolve = |num_beams, ends: u32| {
            let options = GenerateOptions { num_beams, eos_token_ids: Some((0..ends).collect()), ..Default::default() };
            options.resolve(&config, KvCacheType::F32).map(|_| ())
        };
        assert_eq!(resolve(3, 3).unwrap_err().code(), "E_INPUT");
        resolve(1, 3).unwrap();
        // One id that ends nothing is enough: the search goes on with it in every beam.
        resolve(3, 2).unwrap();
    }
}
