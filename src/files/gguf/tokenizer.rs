//! The tokenizer.

use super::fields::Fields;
use super::value::Value;
use crate::error::{Error, Result, printable};
use crate::text::{BytePairOptions, SentencePieceOptions, Tokenizer};

pub(super) fn read_tokenizer(fields: &mut Fields, vocab_size: usize) -> Result<Option<Tokenizer>> {
    let file = fields.file;
    let fail = |reason: String| Error::Tokenizer { file: file.into(), reason };
    let kind = match fields.text("tokenizer.ggml.model")? {
        None | Some("no_vocab" | "none") => return Ok(None),
        Some(kind) => kind.to_string(),
    };
    let pieces = match fields.values.remove("tokenizer.ggml.tokens") {
        Some(Value::Texts(pieces)) => pieces,
        _ => return Err(fail("tokenizer.ggml.tokens: expected a list of texts".into())),
    };
    if pieces.len() > vocab_size {
        return Err(fail(format!("{} pieces, but the embedding has {vocab_size} rows", pieces.len())));
    }
    let types = match fields.values.remove("tokenizer.ggml.token_type") {
        Some(Value::Wholes(types)) => types.iter().map(|&t| i32::try_from(t).unwrap_or(0)).collect(),
        None => vec![1; pieces.len()],
        Some(_) => return Err(fail("tokenizer.ggml.token_type: expected a list of whole numbers".into())),
    };
    let id = |name: &str| fields.id(&format!("tokenizer.ggml.{name}_token_id"), pieces.len());
    let (bos, eos, unknown) = (id("bos")?, id("eos")?, id("unknown")?);
    let add_bos = |default| fields.flag("tokenizer.ggml.add_bos_token", default);
    match kind.as_str() {
        "llama" => {
            let scores = match fields.values.get("tokenizer.ggml.scores") {
                Some(Value::Numbers(scores)) => scores,
                _ => return Err(fail("tokenizer.ggml.scores: expected a list of numbers".into())),
            };
            let options = SentencePieceOptions {
                bos_id: bos.unwrap_or(1),
                eos_id: eos.unwrap_or(2),
                unk_id: unknown.unwrap_or(0),
                add_dummy_prefix: fields.flag("tokenizer.ggml.add_space_prefix", true)?,
                remove_extra_whitespaces: fields.flag("tokenizer.ggml.remove_extra_whitespaces", false)?,
                byte_fallback: types.contains(&6),
            };
            let tokenizer = Tokenizer::from_sentencepiece_parts(file, pieces, scores, &types, options)?;
            Ok(Some(tokenizer.with_bos(add_bos(true)?)))
        }
        "gpt2" => {
            let merges = match fields.values.get("tokenizer.ggml.merges") {
                Some(Value::Texts(merges)) => merges,
                _ => return Err(fail("tokenizer.ggml.merges: expected a list of texts".into())),
            };
            let rule = fields.text("tokenizer.ggml.pre")?.unwrap_or("default");
            let add_bos = add_bos(rule.starts_with("llama"))?;
            let options = BytePairOptions { split: rule, bos_id: bos, eos_id: eos };
            let tokenizer = Tokenizer::from_byte_pairs(file, pieces, &types, merges, options)?;
            Ok(Some(tokenizer.with_bos(add_bos && bos.is_some())))
        }
        other => Err(fail(format!("a tokenizer of the kind {:?}; llama and gpt2 are read", printable(other)))),
    }
}
