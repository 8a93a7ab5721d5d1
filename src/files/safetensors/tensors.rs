//! Small safetensors files that are held in memory: the command line's inputs and outputs.

use super::header::{header_length, parse_header};
use super::tensor_type::{TensorType, elements};
use crate::error::{Error, Result, printable};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A tensor with its data, row-major and little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// The file it came from, for messages; empty when it was made here.
    pub file: String,
    /// Its name in the file.
    pub name: String,
    /// How elements are stored.
    pub dtype: TensorType,
    /// Its axes; empty for a single number.
    pub shape: Vec<usize>,
    /// `shape`'s product times `dtype.bytes()` bytes.
    pub data: Vec<u8>,
}

impl NamedTensor {
    /// A tensor of f32.
    ///
    /// # Panics
    /// When `values` is not as long as the shape says.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> NamedTensor {
        NamedTensor::new(name.into(), TensorType::F32, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// A tensor of i64.
    ///
    /// # Panics
    /// When `values` is not as long as the shape says.
    pub fn i64(name: impl Into<String>, shape: &[usize], values: &[i64]) -> NamedTensor {
        NamedTensor::new(name.into(), TensorType::I64, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn new(name: String, dtype: TensorType, shape: &[usize], data: Vec<u8>) -> NamedTensor {
        let len: usize = shape.iter().product();
        assert_eq!(len * dtype.bytes(), data.len(), "{name}: shape {shape:?} of {dtype}");
        NamedTensor { file: String::new(), name, dtype, shape: shape.to_vec(), data }
    }

    /// Its elements as f32.
    ///
    /// # Errors
    /// `E_DTYPE` unless it is F32, F16 or BF16. NaN and infinities pass.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        if !TensorType::FLOATS.contains(&self.dtype) {
            return Err(self.wrong_type("F32, F16 or BF16"));
        }
        self.dtype.to_f32(&self.name, &self.data)
    }

    /// Its elements as whole numbers.
    ///
    /// # Errors
    /// `E_DTYPE` unless it is I64, I32, U32, U8 or BOOL; `E_INPUT` for a BOOL that is neither 0 nor 1.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        match self.dtype {
            TensorType::I64 => elements(&self.name, &self.data, i64::from_le_bytes),
            TensorType::I32 => elements(&self.name, &self.data, |b| i32::from_le_bytes(b).into()),
            TensorType::U32 => elements(&self.name, &self.data, |b| u32::from_le_bytes(b).into()),
            TensorType::U8 => elements(&self.name, &self.data, |[b]| b.into()),
            TensorType::BOOL => match self.data.iter().position(|b| *b > 1) {
                None => elements(&self.name, &self.data, |[b]| b.into()),
                Some(at) => {
                    let name = printable(&self.name);
                    let found = self.data[at];
                    let reason = format!("{name}: element {at} of a BOOL is {found}, expected 0 or 1");
                    Err(Error::Input { reason })
                }
            },
            _ => Err(self.wrong_type("I64, I32, U32, U8 or BOOL")),
        }
    }

    fn wrong_type(&self, expected: &str) -> Error {
        let (file, tensor) = (self.file.clone(), printable(&self.name));
        Error::DType { file, tensor, expected: expected.into(), found: self.dtype.name().into() }
    }
}

/// The tensors by name of a whole safetensors file; `file` is its name in messages.
///
/// # Errors
/// Those of [`header_length`] and [`parse_header`](super::parse_header).
pub fn read_tensors(file: &str, bytes: &[u8]) -> Result<BTreeMap<String, NamedTensor>> {
    let total = bytes.len() as u64;
    let length = header_length(file, total, bytes)? as usize;
    let infos = parse_header(file, total, &bytes[8..8 + length])?;
    let tensors = infos.into_iter().map(|info| {
        // The header has been checked against the size of `bytes`; only an axis beside a zero can still be too long.
        let axis = |axis: &u64| usize::try_from(*axis);
        let too_large = |_| Error::Overflow { file: file.into(), tensor: printable(&info.name) };
        let shape = info.shape.iter().map(axis).collect::<std::result::Result<_, _>>().map_err(too_large)?;
        let start = info.offset as usize;
        let data = bytes[start..start + info.bytes as usize].to_vec();
        let tensor = NamedTensor { file: file.into(), name: info.name.clone(), dtype: info.dtype, shape, data };
        Ok((info.name, tensor))
    });
    tensors.collect()
}

/// The bytes of a safetensors file with these tensors.
///
/// # Errors
/// `E_INPUT` when two have the same name or one's shape does not fit its data.
pub fn tensors_to_bytes(tensors: &[NamedTensor]) -> Result<Vec<u8>> {
    let views = views(tensors)?;
    safetensors::serialize(views, None).map_err(|e| Error::Input { reason: e.to_string() })
}

struct View<'a>(&'a NamedTensor, safetensors::Dtype);

impl safetensors::View for View<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        self.1
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.0.data)
    }
    fn data_len(&self) -> usize {
        self.0.data.len()
    }
}

fn views(tensors: &[NamedTensor]) -> Result<BTreeMap<&str, View<'_>>> {
    let mut views = BTreeMap::new();
    for tensor in tensors {
        let refuse = |what: &str| Err(Error::Input { reason: format!("tensor {}: {what}", printable(&tensor.name)) });
        let bytes = tensor.shape.iter().try_fold(tensor.dtype.bytes(), |n, axis| n.checked_mul(*axis));
        if bytes != Some(tensor.data.len()) {
            return refuse("its shape does not fit its data");
        }
        let Ok(dtype) = serde_json::from_value(serde_json::Value::from(tensor.dtype.name())) else {
            return refuse("its type cannot be written");
        };
        if views.insert(tensor.name.as_str(), View(tensor, dtype)).is_some() {
            return refuse("the name is there twice");
        }
    }
    Ok(views)
}

#[cfg(not(target_arch = "wasm32"))]
mod files {
    use super::*;
    use crate::files::source::{base_name, io_error, open_regular};
    use std::io::{Read, Write};
    use std::path::{Path, PathBuf};

    /// [`read_tensors`] of a file on disk.
    ///
    /// # Errors
    /// As there; `E_IO` when the file is missing, not regular or cannot be read.
    pub fn read_tensor_file(path: impl AsRef<Path>) -> Result<BTreeMap<String, NamedTensor>> {
        let name = base_name(path.as_ref());
        let Some((mut file, _)) = open_regular(path.as_ref())? else {
            return Err(Error::Io { file: name, reason: "no such file".into() });
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| io_error(&name, e))?;
        read_tensors(&name, &bytes)
    }

    /// Writes a safetensors file. The bytes go to another name in the same folder, which then becomes `path`: whoever
    /// looks finds the old file or the whole new one. A symbolic link stays one, and what it names is written; a device
    /// or pipe is written to as it is.
    ///
    /// # Errors
    /// Those of [`tensors_to_bytes`]; `E_IO` when the file cannot be written. Then nothing is left behind.
    pub fn write_tensors(path: impl AsRef<Path>, tensors: &[NamedTensor]) -> Result<()> {
        let name = base_name(path.as_ref());
        let refuse = |reason: &str| Err(Error::Io { file: name.clone(), reason: reason.into() });
        let path = named(path.as_ref());
        let Some(last) = path.file_name() else { return refuse("expected the name of a file") };
        let found = std::fs::metadata(&path).ok();
        if found.as_ref().is_some_and(|found| found.is_dir()) {
            return refuse("expected the name of a file, found a folder");
        }
        let bytes = tensors_to_bytes(tensors)?;
        let fail = |e| io_error(&name, e);
        if found.is_some_and(|found| !found.is_file()) {
            let mut file = std::fs::File::options().write(true).open(&path).map_err(fail)?;
            return file.write_all(&bytes).map_err(fail);
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(last);
        hidden.push(format!(".{}.part", std::process::id()));
        let part = Unfinished(path.with_file_name(hidden));
        std::fs::write(&part.0, bytes).map_err(fail)?;
        std::fs::rename(&part.0, &path).map_err(fail)
    }

    /// What a path names in the end, also where a link names nothing yet.
    fn named(path: &Path) -> PathBuf {
        match (std::fs::canonicalize(path), std::fs::read_link(path)) {
            (Ok(found), _) => found,
            (Err(_), Ok(target)) => path.parent().unwrap_or(Path::new("")).join(target),
            (Err(_), Err(_)) => path.to_path_buf(),
        }
    }

    /// A file that is removed when this goes, unless it has got its final name.
    struct Unfinished(PathBuf);

    impl Drop for Unfinished {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use files::{read_tensor_file, write_tensors};
