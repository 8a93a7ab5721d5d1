//! A checkpoint of either format: a folder of `config.json` and safetensors files, or one GGUF file.
//!
//! Opening reads the config, the index and the headers; weights are read in pieces of the caller's size when it asks
//! for them. Everything a file claims is checked before it is used.

use std::time::SystemTime;

use crate::error::{Error, Result, printable};
use crate::files::config::Config;
use crate::files::gguf::{self, BlockType, Gguf};
use crate::files::safetensors::{self, Shards, TensorType};
use crate::files::source::{Source, not_found, read_small};
use crate::room::zeros;
use std::fmt;

const CONFIG: &str = "config.json";
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// As many missing tensors as one message names.
const MAX_LISTED: usize = 20;

/// An open checkpoint: its config and where each tensor lies.
pub struct Checkpoint {
    source: Box<dyn Source>,
    /// The model's sizes, with what only the tensors' names tell.
    pub config: Config,
    files: Vec<String>,
    /// By name.
    tensors: Vec<StoredTensor>,
}

/// How a tensor's elements are stored, whatever the format of the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ElementType {
    /// One by one.
    Number(TensorType),
    /// Packed: neighbours of a row in GGUF's blocks.
    Block(BlockType),
}

impl ElementType {
    /// The types that weights may have where they are not packed.
    pub const FLOATS: [ElementType; 3] = [
        ElementType::Number(TensorType::F32),
        ElementType::Number(TensorType::F16),
        ElementType::Number(TensorType::BF16),
    ];

    /// The types that matrices may have: floats, and GGUF's packed ones.
    pub fn matrices() -> Vec<ElementType> {
        ElementType::FLOATS.into_iter().chain(BlockType::ALL.map(ElementType::Block)).collect()
    }

    /// Its name in the file's format.
    pub fn name(self) -> &'static str {
        match self {
            ElementType::Number(number) => number.name(),
            ElementType::Block(block) => block.name(),
        }
    }

    /// Stored elements as f32; `what` is what they are, for the message.
    ///
    /// # Errors
    /// `E_OOM`.
    ///
    /// # Panics
    /// When the type is none of [`ElementType::FLOATS`].
    pub fn to_f32(self, what: &str, bytes: &[u8]) -> Result<Vec<f32>> {
        match self {
            ElementType::Number(number) => number.to_f32(what, bytes),
            ElementType::Block(block) => panic!("{block} is packed"),
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<gguf::TensorType> for ElementType {
    fn from(dtype: gguf::TensorType) -> ElementType {
        match dtype {
            gguf::TensorType::F32 => ElementType::Number(TensorType::F32),
            gguf::TensorType::F16 => ElementType::Number(TensorType::F16),
            gguf::TensorType::BF16 => ElementType::Number(TensorType::BF16),
            gguf::TensorType::Block(block) => ElementType::Block(block),
        }
    }
}

/// Where a tensor lies and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredTensor {
    /// Its name in the safetensors layout.
    pub name: String,
    pub dtype: ElementType,
    /// Row-major; empty for a single number.
    pub shape: Vec<u64>,
    /// Which of the checkpoint's files holds it.
    pub file: usize,
    /// Its first byte, counted from the start of that file. Not aligned to anything.
    pub offset: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Rows of a head, where the rows of each head are interleaved; see [`gguf::TensorInfo::interleaved`].
    interleaved: Option<usize>,
}

impl From<safetensors::TensorInfo> for StoredTensor {
    fn from(info: safetensors::TensorInfo) -> StoredTensor {
        let safetensors::TensorInfo { name, dtype, shape, file, offset, bytes } = info;
        StoredTensor { name, dtype: ElementType::Number(dtype), shape, file, offset, bytes, interleaved: None }
    }
}

impl From<gguf::TensorInfo> for StoredTensor {
    fn from(info: gguf::TensorInfo) -> StoredTensor {
        let gguf::TensorInfo { name, dtype, shape, offset, bytes, interleaved } = info;
        StoredTensor { name, dtype: dtype.into(), shape, file: 0, offset, bytes, interleaved }
    }
}

impl StoredTensor {
    /// The fewest rows that are best read together: reading a part of them reads all.
    pub fn rows_together(&self) -> usize {
        self.interleaved.unwrap_or(1)
    }
}

/// A tensor that a model needs; see [`Checkpoint::require`].
#[derive(Debug, Clone)]
pub struct Requirement {
    /// Its full name.
    pub name: String,
    /// Its exact shape.
    pub shape: Vec<u64>,
    /// The types that will do.
    pub types: Vec<ElementType>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checkpoint { source, files, tensors, .. } = self;
        write!(f, "Checkpoint({}: {} tensors in {files:?})", source.describe(), tensors.len())
    }
}

impl Checkpoint {
    /// Opens a folder of safetensors files.
    ///
    /// # Errors
    /// Those of [`Config::from_bytes`] and [`Shards::open`].
    pub async fn open(source: Box<dyn Source>) -> Result<Checkpoint> {
        let Some(config) = read_small(&*source, CONFIG, MAX_CONFIG_BYTES).await? else {
            return Err(not_found(CONFIG, &*source));
        };
        let mut config = Config::from_bytes(CONFIG, &config)?;
        let Shards { files, tensors } = Shards::open(&*source).await?;
        if tensors.iter().any(|t| t.name.contains(".cross_attn.q_proj.")) {
            config.text.set_cross_attention(CONFIG)?;
        }
        Ok(Checkpoint { source, config, files, tensors: tensors.into_iter().map(StoredTensor::from).collect() })
    }

    /// The checkpoint that one GGUF file of a source is.
    pub fn from_gguf(source: Box<dyn Source>, gguf: Gguf) -> Checkpoint {
        let Gguf { file, config, tensors, .. } = gguf;
        let mut tensors: Vec<_> = tensors.into_iter().map(StoredTensor::from).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Checkpoint { source, config, files: vec![file], tensors }
    }

    /// A short name for messages.
    pub fn describe(&self) -> String {
        self.source.describe()
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok().map(|at| &self.tensors[at])
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// `E_MISSING_TENSOR` when there is none.
    pub fn get(&self, name: &str) -> Result<&StoredTensor> {
        self.tensor(name).ok_or_else(|| Error::MissingTensor { names: printable(name), total: 1 })
    }

    /// The base name of the file that holds a tensor of this checkpoint.
    pub fn file_name(&self, tensor: &StoredTensor) -> &str {
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
    pub async fn read(&self, tensor: &StoredTensor, offset: u64, buf: &mut [u8]) -> Result<()> {
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

    /// Fills `out` with rows of `row_bytes` from row `first` on, in the order of the safetensors layout.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read`].
    pub async fn read_rows(&self, tensor: &StoredTensor, first: usize, out: &mut [u8], row_bytes: usize) -> Result<()> {
        let Some(head) = tensor.interleaved else {
            return self.read(tensor, (first * row_bytes) as u64, out).await;
        };
        let last = first + out.len() / row_bytes;
        let (from, to) = (first / head * head, last.next_multiple_of(head));
        let mut stored = zeros(&printable(&tensor.name), (to - from) * row_bytes)?;
        self.read(tensor, (from * row_bytes) as u64, &mut stored).await?;
        for (row, out) in (first..last).zip(out.chunks_mut(row_bytes)) {
            let (half, i) = (row % head / (head / 2), row % (head / 2));
            let at = row / head * head - from + 2 * i + half;
            out.copy_from_slice(&stored[at * row_bytes..][..row_bytes]);
        }
        Ok(())
    }

    /// The sizes of the files of weights, and when they were changed, where that is known.
    ///
    /// # Errors
    /// Those of [`Source::size`].
    pub async fn stamps(&self) -> Result<Vec<(Option<u64>, Option<SystemTime>)>> {
        let mut stamps = Vec::new();
        for name in &self.files {
            stamps.push((self.source.size(name).await?, self.source.changed(name)));
        }
        Ok(stamps)
    }

    /// A whole small file of the checkpoint, such as `tokenizer.model`, or `None` where there is none.
    ///
    /// # Errors
    /// `E_IO` when it has more than `cap` bytes, or is a web page or a Git LFS pointer; those of [`Source::read`].
    pub async fn read_small(&self, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
        read_small(&*self.source, name, cap).await
    }
}
