//! The weights of a folder: `model.safetensors`, or several such files with `model.safetensors.index.json`.

use super::header::{TensorInfo, header_length, parse_header};
use crate::error::{Error, Result, printable};
use crate::files::json::{Fields, Json, duplicate, parse};
use crate::files::source::{Source, is_plain_name, read_small};
use crate::room::zeros;
use std::collections::HashMap;

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Weights in PyTorch's own format, which may hold code: they are not read.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
const CONVERT: &str = "take the folder's safetensors files, or write them with transformers in Python, \
                       `AutoModel.from_pretrained(FOLDER, trust_remote_code=True).save_pretrained(NEW_FOLDER)`";

/// Where each tensor of a folder lies.
#[derive(Debug)]
pub struct Shards {
    pub files: Vec<String>,
    /// By name; `file` is an index into [`Shards::files`].
    pub tensors: Vec<TensorInfo>,
}

impl Shards {
    /// Reads the index where there is one, and the headers. `model.safetensors` goes before the index, as in Hugging
    /// Face's loader.
    ///
    /// # Errors
    /// Those of [`parse_header`]; `E_IO` for a file that is missing, not regular, or something else under the file's
    /// name; `E_PATH`, `E_MISSING_SHARD` for what the index says; `E_TENSOR_RANGE` for a tensor that is not in the shard
    /// where the index has it; `E_DUP_KEY` for one that two shards have.
    pub async fn open(source: &dyn Source) -> Result<Shards> {
        let mut index = None;
        let files = if source.size(WEIGHTS).await?.is_some() {
            vec![WEIGHTS.to_string()]
        } else if let Some(bytes) = read_small(source, INDEX, MAX_INDEX_BYTES).await? {
            let parsed = parse_index(INDEX, &bytes)?;
            let mut files: Vec<_> = parsed.values().cloned().collect();
            files.sort_unstable();
            files.dedup();
            index = Some(parsed);
            files
        } else {
            let mut reason = format!("neither this file nor {INDEX} is in {}", source.describe());
            for name in PICKLED {
                if source.size(name).await?.is_some() {
                    reason.push_str(&format!("; {name} is there, in PyTorch's own format: {CONVERT}"));
                    break;
                }
            }
            return Err(Error::Io { file: WEIGHTS.into(), reason });
        };

        let mut tensors = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let Some(size) = source.size(file).await? else {
                return Err(Error::MissingShard { file: INDEX.into(), shard: file.clone() });
            };
            for mut tensor in read_header(source, file, size).await? {
                tensor.file = number;
                tensors.push(tensor);
            }
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::DuplicateKey { file: files[pair[1].file].clone(), key: printable(&pair[1].name) });
        }
        let shards = Shards { files, tensors };
        if let Some(index) = index {
            shards.check_index(&index)?;
        }
        Ok(shards)
    }

    /// Every tensor of the index is in the file that the index names. Tensors beyond the index do no harm.
    fn check_index(&self, index: &HashMap<String, String>) -> Result<()> {
        let mut entries: Vec<_> = index.iter().collect();
        entries.sort_unstable();
        for (name, file) in entries {
            let found = self.tensors.binary_search_by(|t| t.name.cmp(name));
            let found = match found.ok().map(|at| &self.files[self.tensors[at].file]) {
                Some(own) if own == file => continue,
                Some(own) => format!("it is in {own}"),
                None => "no file has it".into(),
            };
            let reason = format!("{INDEX} says that it is in this file, but {found}");
            return Err(Error::TensorRange { file: file.clone(), tensor: printable(name), reason });
        }
        Ok(())
    }
}

async fn read_header(source: &dyn Source, file: &str, size: u64) -> Result<Vec<TensorInfo>> {
    let mut start = [0; 64];
    let start = &mut start[..size.min(64) as usize];
    source.read(file, 0, start).await?;
    let length = header_length(file, size, start)?;
    let mut json = zeros(file, length as usize)?;
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
