//! Checkpoints written piece by piece: weights of any size pass through buffers of the caller's.

use super::shards::{INDEX, WEIGHTS};
use super::tensor_type::TensorType;
use crate::error::{Error, Result, printable};
use crate::files::source::io_error;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    pub name: String,
    pub dtype: TensorType,
    /// Row-major; empty for a single number.
    pub shape: Vec<u64>,
}

impl NewTensor {
    /// Its size in bytes, or `None` where 64 bits do not hold it.
    pub fn bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.dtype.bytes() as u64, |n, axis| n.checked_mul(*axis))
    }
}

/// Writes `model.safetensors`, or several files with an index where one would be too long.
pub struct CheckpointWriter {
    files: Vec<(String, File)>,
    /// By name: number of the file, first byte in it, size in bytes.
    places: BTreeMap<String, (usize, u64, u64)>,
    /// The index's text, where there are several files.
    index: Option<String>,
}

impl CheckpointWriter {
    /// Makes the files in `folder`, with their headers and their full length. Tensors of one group come into one file;
    /// a new file begins where the data would be longer than `max_file_bytes`. The layout follows from the arguments
    /// alone, and data of files that are there already are kept: who interrupted a run can go on with it.
    ///
    /// # Errors
    /// `E_DUP_KEY` for a name that is there twice, `E_OVERFLOW` for a size beyond 64 bits, `E_IO`.
    pub fn open(folder: &Path, groups: &[Vec<NewTensor>], max_file_bytes: u64) -> Result<CheckpointWriter> {
        let mut shards: Vec<(u64, Vec<&NewTensor>)> = vec![(0, Vec::new())];
        for group in groups {
            let overflow = |t: &NewTensor| Error::Overflow { file: WEIGHTS.into(), tensor: printable(&t.name) };
            let mut size = 0u64;
            for tensor in group {
                let sum = tensor.bytes().and_then(|bytes| size.checked_add(bytes));
                size = sum.filter(|n| *n < 1 << 62).ok_or_else(|| overflow(tensor))?;
            }
            let (used, tensors) = shards.last().expect("one at least");
            if !tensors.is_empty() && used + size > max_file_bytes {
                shards.push((0, Vec::new()));
            }
            let (used, tensors) = shards.last_mut().expect("one at least");
            *used += size;
            tensors.extend(group);
        }
        let count = shards.len();
        let mut writer = CheckpointWriter { files: Vec::new(), places: BTreeMap::new(), index: None };
        let mut total = 0;
        for (number, (bytes, mut tensors)) in shards.into_iter().enumerate() {
            // Wide elements first, so that every tensor's data are aligned.
            tensors.sort_by(|a, b| b.dtype.bytes().cmp(&a.dtype.bytes()).then(a.name.cmp(&b.name)));
            let name = match count {
                1 => WEIGHTS.to_string(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let (header, starts) = file_header(&tensors);
            for (tensor, start) in tensors.iter().zip(starts) {
                let place = (number, header.len() as u64 + start, tensor.bytes().expect("checked above"));
                if writer.places.insert(tensor.name.clone(), place).is_some() {
                    return Err(Error::DuplicateKey { file: name, key: printable(&tensor.name) });
                }
            }
            let open = || {
                let mut options = File::options();
                let mut file = options.create(true).truncate(false).read(true).write(true).open(folder.join(&name))?;
                file.write_all(&header)?;
                file.set_len(header.len() as u64 + bytes)?;
                Ok(file)
            };
            let file = open().map_err(|e| io_error(&name, e))?;
            writer.files.push((name, file));
            total += bytes;
        }
        if count > 1 {
            let map: BTreeMap<_, _> =
                writer.places.iter().map(|(name, place)| (name, &writer.files[place.0].0)).collect();
            let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
            writer.index = Some(format!("{index:#}\n"));
        }
        Ok(writer)
    }

    /// The names of the files of weights.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    /// Writes bytes of the tensor `name` from its byte `offset` on (little-endian, row-major).
    ///
    /// # Errors
    /// `E_IO`.
    ///
    /// # Panics
    /// When no such tensor was announced, or the bytes reach beyond it.
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let (number, start, size) = *self.places.get(name).expect("a tensor that was announced");
        assert!(offset + bytes.len() as u64 <= size, "{name}: {} bytes at {offset} of {size}", bytes.len());
        let (file_name, file) = &mut self.files[number];
        let done = file.seek(SeekFrom::Start(start + offset)).and_then(|_| file.write_all(bytes));
        done.map_err(|e| io_error(file_name, e))
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(|(name, file)| file.sync_all().map_err(|e| io_error(name, e)))
    }

    /// Ends the files and writes the index where there are several.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn finish(self, folder: &Path) -> Result<()> {
        self.sync()?;
        match self.index {
            Some(index) => std::fs::write(folder.join(INDEX), index).map_err(|e| io_error(INDEX, e)),
            None => Ok(()),
        }
    }
}

/// The bytes in front of the data, length first, and where each tensor's data begin behind them.
///
/// # Panics
/// When a tensor's size is beyond 64 bits.
pub fn file_header(tensors: &[&NewTensor]) -> (Vec<u8>, Vec<u64>) {
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut starts = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for tensor in tensors {
        starts.push(end);
        let begin = end;
        end += tensor.bytes().expect("checked by the caller");
        let entry = serde_json::json!({
            "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [begin, end]
        });
        json.push_str(&format!(",{}:{entry}", serde_json::Value::from(tensor.name.as_str())));
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    (bytes, starts)
}
