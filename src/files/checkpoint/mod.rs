//! A checkpoint: `config.json`, and `model.safetensors` or several such files with `model.safetensors.index.json`.
//!
//! Opening reads the config, the index and the headers; weights are read in pieces of the caller's size when it asks
//! for them. Everything a file claims is checked before it is used.

mod header;
mod tensors;
#[cfg(not(target_arch = "wasm32"))]
mod writer;

pub use header::{MAX_HEADER_BYTES, TensorInfo, TensorType, header_length, parse_header};
pub use tensors::{NamedTensor, read_tensors, tensors_to_bytes};
#[cfg(not(target_arch = "wasm32"))]
pub use tensors::{read_tensor_file, write_tensors};
#[cfg(not(target_arch = "wasm32"))]
pub use writer::{CheckpointWriter, NewTensor};

use crate::error::{Error, Result, printable};
use crate::files::config::Config;
use crate::files::json::{Fields, Json, duplicate, parse};
use crate::files::source::{Source, impostor, is_plain_name, not_found};
use std::collections::HashMap;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// As many missing tensors as one message names.
const MAX_LISTED: usize = 20;

/// An open checkpoint: its config and where each tensor lies.
pub struct Checkpoint {
    source: Box<dyn Source>,
    /// The model's sizes, with what only the tensors' names tell.
    pub config: Config,
    files: Vec<String>,
    /// By name.
    tensors: Vec<TensorInfo>,
    /// Whether rows of q and k are stored for interleaved rotation, as GGUF has them.
    interleaved: bool,
}

/// A tensor that a model needs; see [`Checkpoint::require`].
#[derive(Debug, Clone)]
pub struct Requirement {
    /// Its full name.
    pub name: String,
    /// Its exact shape.
    pub shape: Vec<u64>,
    /// The types that will do.
    pub types: Vec<TensorType>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Checkpoint { source, files, tensors, .. } = self;
        write!(f, "Checkpoint({}: {} tensors in {files:?})", source.describe(), tensors.len())
    }
}

impl Checkpoint {
    /// Reads `config.json`, the index where there is one, and the headers of the weights. `model.safetensors` goes
    /// before the index, as in Hugging Face's loader.
    ///
    /// # Errors
    /// Those of [`Config::from_bytes`] and [`parse_header`]; `E_IO` for a file that is missing, not regular, or
    /// something else under the file's name; `E_PATH`, `E_MISSING_SHARD` for what the index says; `E_TENSOR_RANGE` for
    /// a tensor that is not in the shard where the index has it; `E_DUP_KEY` for one that two shards have.
    pub async fn open(source: Box<dyn Source>) -> Result<Checkpoint> {
        let config = required_small(&*source, CONFIG, MAX_CONFIG_BYTES).await?;
        let config = Config::from_bytes(CONFIG, &config)?;
        let mut index = None;
        let files = if source.size(WEIGHTS).await?.is_some() {
            vec![WEIGHTS.to_string()]
        } else if let Some(bytes) = read_small(&*source, INDEX, MAX_INDEX_BYTES).await? {
            let parsed = parse_index(INDEX, &bytes)?;
            let mut files: Vec<_> = parsed.values().cloned().collect();
            files.sort_unstable();
            files.dedup();
            index = Some(parsed);
            files
        } else {
            let mut reason = format!("neither this file nor {INDEX} is in {}", source.describe());
            if source.size("pytorch_model.bin").await?.is_some() {
                reason.push_str("; pytorch_model.bin is there, which must be converted to safetensors first");
            }
            return Err(Error::Io { file: WEIGHTS.into(), reason });
        };

        let mut tensors = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let Some(size) = source.size(file).await? else {
                return Err(Error::MissingShard { file: INDEX.into(), shard: file.clone() });
            };
            for mut tensor in read_header(&*source, file, size).await? {
                tensor.file = number;
                tensors.push(tensor);
            }
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::DuplicateKey { file: files[pair[1].file].clone(), key: printable(&pair[1].name) });
        }
        let mut checkpoint = Checkpoint { source, config, files, tensors, interleaved: false };
        if let Some(index) = index {
            checkpoint.check_index(&index)?;
        }
        if checkpoint.names().any(|name| name.contains(".cross_attn.q_proj.")) {
            checkpoint.config.text.set_cross_attention(CONFIG)?;
        }
        Ok(checkpoint)
    }

    /// Every tensor of the index is in the file that the index names. Tensors beyond the index do no harm.
    fn check_index(&self, index: &HashMap<String, String>) -> Result<()> {
        let mut entries: Vec<_> = index.iter().collect();
        entries.sort_unstable();
        for (name, file) in entries {
            let found = match self.tensor(name) {
                Some(tensor) if self.file_name(tensor) == file => continue,
                Some(tensor) => format!("it is in {}", self.file_name(tensor)),
                None => "no file has it".into(),
            };
            let reason = format!("{INDEX} says that it is in this file, but {found}");
            return Err(Error::TensorRange { file: file.clone(), tensor: printable(name), reason });
        }
        Ok(())
    }

    /// The checkpoint that one GGUF file is; its tensors have the names of the safetensors layout.
    pub(crate) fn from_gguf(
        source: Box<dyn Source>,
        config: Config,
        file: &str,
        mut tensors: Vec<TensorInfo>,
    ) -> Checkpoint {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Checkpoint { source, config, files: vec![file.into()], tensors, interleaved: true }
    }

    /// The width of a head where the rows of each head of this tensor are interleaved: stored row `2 i + half` is row
    /// `half * width / 2 + i`.
    pub fn interleaved_rows(&self, name: &str) -> Option<usize> {
        let q_or_k = || name.ends_with(".self_attn.q_proj.weight") || name.ends_with(".self_attn.k_proj.weight");
        (self.interleaved && q_or_k()).then_some(self.config.text.head_dim)
    }

    /// A short name for messages.
    pub fn describe(&self) -> String {
        self.source.describe()
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok().map(|at| &self.tensors[at])
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// `E_MISSING_TENSOR` when there is none.
    pub fn get(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name).ok_or_else(|| Error::MissingTensor { names: printable(name), total: 1 })
    }

    /// The base name of the file that holds a tensor of this checkpoint.
    pub fn file_name(&self, tensor: &TensorInfo) -> &str {
        &self.files[tensor.file]
    }

    /// The names that `known` does not know. A model ignores and lists them.
    pub fn unused(&self, known: impl Fn(&str) -> bool) -> Vec<&str> {
        self.names().filter(|name| !known(name)).collect()
    }

    /// Checks all that a model needs at once, before a weight is read.
    ///
    /// # Errors
    /// `E_MISSING_TENSOR` with all that are missing (at most 20 of them by name), then `E_SHAPE` or `E_DTYPE` for the
    /// first that is wrong.
    pub fn require(&self, needed: &[Requirement]) -> Result<()> {
        let missing: Vec<_> =
            needed.iter().filter(|n| self.tensor(&n.name).is_none()).map(|n| printable(&n.name)).collect();
        if !missing.is_empty() {
            let total = missing.len();
            let mut names = missing[..total.min(MAX_LISTED)].join(", ");
            if total > MAX_LISTED {
                names.push_str(", …");
            }
            return Err(Error::MissingTensor { names, total });
        }
        for Requirement { name, shape, types } in needed {
            let Some(tensor) = self.tensor(name) else { continue };
            let file = self.file_name(tensor);
            if tensor.shape != *shape {
                return Err(Error::Shape {
                    what: format!("{file}: tensor {}", printable(name)),
                    expected: format!("{shape:?}"),
                    found: format!("{:?}", tensor.shape),
                });
            }
            if !types.contains(&tensor.dtype) {
                return Err(Error::DType {
                    file: file.into(),
                    tensor: printable(name),
                    expected: types.iter().map(|t| t.name()).collect::<Vec<_>>().join(" or "),
                    found: tensor.dtype.name().into(),
                });
            }
        }
        Ok(())
    }

    /// Fills `buf` with the bytes of `tensor` from its byte `offset` on, as stored (little-endian).
    ///
    /// # Errors
    /// `E_TENSOR_RANGE` when the piece reaches beyond the tensor; those of [`Source::read`].
    pub async fn read(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = self.file_name(tensor);
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > tensor.bytes) {
            return Err(Error::TensorRange {
                file: file.into(),
                tensor: printable(&tensor.name),
                reason: format!("{} bytes asked for at byte {offset} of {}", buf.len(), tensor.bytes),
            });
        }
        self.source.read(file, tensor.offset + offset, buf).await
    }

    /// A whole small file of the checkpoint, such as `tokenizer.model`, or `None` where there is none.
    ///
    /// # Errors
    /// `E_IO` when it has more than `cap` bytes, or is a web page or a Git LFS pointer; those of [`Source::read`].
    pub async fn read_small(&self, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
        read_small(&*self.source, name, cap).await
    }
}

/// A whole small file of a source, or `None` where there is none.
///
/// # Errors
/// As [`Checkpoint::read_small`].
pub async fn read_small(source: &dyn Source, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
    let Some(size) = source.size(name).await? else { return Ok(None) };
    if size > cap {
        let reason = format!("{size} bytes, and at most {cap} are read of such a file");
        return Err(Error::Io { file: name.into(), reason });
    }
    let mut bytes = vec![0; size as usize];
    source.read(name, 0, &mut bytes).await?;
    match impostor(&bytes) {
        Some(reason) => Err(Error::Io { file: name.into(), reason: reason.into() }),
        None => Ok(Some(bytes)),
    }
}

async fn required_small(source: &dyn Source, name: &str, cap: u64) -> Result<Vec<u8>> {
    read_small(source, name, cap).await?.ok_or_else(|| not_found(name, source))
}

async fn read_header(source: &dyn Source, file: &str, size: u64) -> Result<Vec<TensorInfo>> {
    let mut start = [0; 64];
    let start = &mut start[..size.min(64) as usize];
    source.read(file, 0, start).await?;
    let length = header_length(file, size, start)?;
    let mut json = Vec::new();
    let room = json.try_reserve_exact(length as usize);
    room.map_err(|_| Error::OutOfMemory { asked: length, held: 0, hint: format!("for the header of {file}") })?;
    json.resize(length as usize, 0);
    source.read(file, 8, &mut json).await?;
    parse_header(file, size, &json)
}

/// The files by tensor name that an index lists.
///
/// # Errors
/// `E_HEADER` when it is not JSON, `E_DUP_KEY` for a key that is there twice, `E_CONFIG` where `weight_map` is not an
/// object of texts or empty, `E_PATH` for a file name that is not a plain one.
fn parse_index(file: &str, bytes: &[u8]) -> Result<HashMap<String, String>> {
    let json = parse(file, bytes)?;
    if let Some(key) = duplicate(&json) {
        return Err(Error::DuplicateKey { file: file.into(), key });
    }
    let top = Fields::of(file, "", &json)?;
    let map = top.get("weight_map").ok_or_else(|| top.unexpected("weight_map", "an object"))?;
    let map = Fields::of(file, "/weight_map", map)?;
    if map.all().is_empty() {
        return Err(top.error("weight_map", "expected one tensor or more, found none"));
    }
    let entries = map.all().iter().map(|(name, shard)| match shard {
        Json::Text(shard) if is_plain_name(shard) => Ok((name.clone(), shard.clone())),
        Json::Text(shard) => Err(Error::Path { file: file.into(), name: printable(shard) }),
        _ => Err(map.unexpected(name, "the name of a file")),
    });
    entries.collect()
}
