//! An open file.

use super::config::read_config;
use super::fields::Fields;
use super::head::{TensorInfo, duplicate, read_head};
use super::names::{is_interleaved, safetensors_name};
use super::tokenizer::read_tokenizer;
use crate::error::{Error, Result, printable};
use crate::files::config::Config;
use crate::files::source::{Source, not_found};
use crate::text::Tokenizer;

/// What a GGUF file holds, but for the weights themselves.
pub struct Gguf {
    /// The file's name in its source.
    pub file: String,
    pub config: Config,
    /// Where the file holds one.
    pub tokenizer: Option<Tokenizer>,
    pub tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Reads the head of the file `name` of a source: sizes, tokenizer, and where each tensor lies.
    ///
    /// # Errors
    /// - `E_IO`: no such file, or it is something else; `E_TRUNCATED`: it ends before what it announces.
    /// - `E_HEADER`: magic, version, a field's type, an alignment or a text that is not in order.
    /// - `E_DUP_KEY`: a field or a tensor twice. `E_DTYPE`: a type of weights that is not read.
    /// - `E_OVERFLOW`, `E_TENSOR_RANGE`: a tensor's size or place.
    /// - `E_CONFIG`: another architecture than the LLaMA family, sizes out of range, or what is not supported (scaled
    ///   positions, biases, experts, a model in several files). `E_TOKENIZER`: a tokenizer that contradicts itself or is
    ///   of an unknown kind.
    pub async fn open(source: &dyn Source, name: &str) -> Result<Gguf> {
        let Some(size) = source.size(name).await? else { return Err(not_found(name, source)) };
        let head = read_head(source, name, size).await?;
        let mut tensors = head.tensors;
        let mut fields = Fields { file: name, values: head.fields };
        let config = read_config(&fields, &tensors)?;
        let tokenizer = read_tokenizer(&mut fields, config.text.vocab_size)?;
        for tensor in &mut tensors {
            if let Some(own) = safetensors_name(&tensor.name) {
                tensor.name = own;
            }
            tensor.interleaved = is_interleaved(&tensor.name).then_some(config.text.head_dim);
        }
        if let Some(twice) = duplicate(&tensors) {
            return Err(Error::DuplicateKey { file: name.into(), key: printable(twice) });
        }
        Ok(Gguf { file: name.into(), config, tokenizer, tensors })
    }
}
