//! Safetensors files of the command line: reading what a command takes by name and type, and checking where it will
//! write.

use std::collections::BTreeMap;
use std::path::Path;

use qllama::internals::{NamedTensor, TensorType, printable, read_tensor_file};
use qllama::{Array, Error, PixelValues, Result};

use crate::many::names::base_name;
use crate::out;

/// The tensors of a file; taking one removes it.
pub struct TensorFile {
    name: String,
    tensors: BTreeMap<String, NamedTensor>,
}

impl TensorFile {
    pub fn read(path: &Path) -> Result<TensorFile> {
        Ok(TensorFile { name: base_name(path), tensors: read_tensor_file(path)? })
    }

    /// F32, F16 or BF16.
    pub fn floats(&mut self, name: &str) -> Result<Option<Array<f32>>> {
        self.take(name, |t| t.to_f32())
    }

    /// I64, I32 or U32.
    pub fn ids(&mut self, name: &str) -> Result<Option<Array<i64>>> {
        self.integers(name, &[TensorType::I64, TensorType::I32, TensorType::U32], "I64, I32 or U32")
    }

    /// As [`TensorFile::ids`], or BOOL.
    pub fn mask(&mut self, name: &str) -> Result<Option<Array<i64>>> {
        let types = [TensorType::I64, TensorType::I32, TensorType::U32, TensorType::BOOL];
        self.integers(name, &types, "I64, I32, U32 or BOOL")
    }

    /// `pixel_values` [pictures, 3, height, width].
    pub fn pixel_values(&mut self) -> Result<Option<PixelValues>> {
        let Some(array) = self.floats("pixel_values")? else { return Ok(None) };
        let [batch, 3, height, width] = array.shape[..] else {
            return Err(Error::InputShape {
                what: "pixel_values".into(),
                expected: "[pictures, 3, height, width]".into(),
                found: format!("{:?}", array.shape),
            });
        };
        Ok(Some(PixelValues { batch, height, width, values: array.values }))
    }

    /// `past_key.N` and `past_value.N` of layers 0, 1, ...; empty where there are none.
    pub fn past(&mut self) -> Result<Vec<(Array<f32>, Array<f32>)>> {
        let mut layers = Vec::new();
        loop {
            let (key, value) = (format!("past_key.{}", layers.len()), format!("past_value.{}", layers.len()));
            match (self.floats(&key)?, self.floats(&value)?) {
                (Some(k), Some(v)) => layers.push((k, v)),
                (None, None) => break,
                (Some(_), None) => return Err(self.lacks(&value, &format!("{key} is there"))),
                (None, Some(_)) => return Err(self.lacks(&key, &format!("{value} is there"))),
            }
        }
        // A layer beyond a gap.
        let beyond = self.tensors.keys().find(|name| name.starts_with("past_key.") || name.starts_with("past_value."));
        if let Some(name) = beyond {
            return Err(self.lacks(&format!("past_key.{}", layers.len()), &format!("{} is there", printable(name))));
        }
        Ok(layers)
    }

    /// `E_INPUT`: a tensor is missing.
    pub fn lacks(&self, tensor: &str, reason: &str) -> Error {
        Error::Input { reason: format!("{}: there is no tensor {tensor}, and {reason}", self.name) }
    }

    /// Tells on standard error of tensors that nobody took: a misspelt name would go unseen otherwise.
    pub fn note_unused(&self) {
        if !self.tensors.is_empty() {
            let names: Vec<_> = self.tensors.keys().take(20).map(|name| printable(name)).collect();
            out::note(format_args!(
                "qllama: note: {}: {} tensor(s) not used: {}",
                self.name,
                self.tensors.len(),
                names.join(", ")
            ));
        }
    }

    fn integers(&mut self, name: &str, types: &[TensorType], expected: &str) -> Result<Option<Array<i64>>> {
        let file = self.name.clone();
        self.take(name, |t| {
            if !types.contains(&t.dtype) {
                let (tensor, found) = (name.into(), t.dtype.name().into());
                return Err(Error::DType { file, tensor, expected: expected.into(), found });
            }
            t.to_i64()
        })
    }

    fn take<T>(&mut self, name: &str, values: impl FnOnce(&NamedTensor) -> Result<Vec<T>>) -> Result<Option<Array<T>>> {
        let Some(tensor) = self.tensors.remove(name) else { return Ok(None) };
        let values = values(&tensor)?;
        Ok(Some(Array::new(&tensor.shape, values)))
    }
}

/// Fails before the work where `path` could not be written after it.
pub fn check_outputs(path: &Path) -> Result<()> {
    let fail = |reason: &str| Err(Error::Io { file: base_name(path), reason: reason.into() });
    if path.file_name().is_none() || path.is_dir() {
        return fail("expected the name of a file to write, found a folder");
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            fail("the folder that it should be written to is not there")
        }
        _ => Ok(()),
    }
}
