//! What stands in front of the data: fields, and where each tensor lies.

use std::collections::{HashMap, HashSet};

use super::cursor::Cursor;
use super::tensor_type::TensorType;
use super::value::Value;
use crate::error::{Error, Result, printable};
use crate::files::json::config_error;
use crate::files::source::{Source, impostor};

/// The format's own limit of a key; names of tensors are held to it too.
const MAX_KEY_BYTES: u64 = 65535;
const MAX_ALIGNMENT: u64 = 1 << 16;

/// Where a tensor lies and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorInfo {
    /// By the safetensors layout, where it has a name there.
    pub name: String,
    pub dtype: TensorType,
    /// Row-major.
    pub shape: Vec<u64>,
    /// Its first byte, counted from the start of the file.
    pub offset: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// The width of a head where the rows of each head are interleaved, as those of q and k are for ggml's rotation:
    /// stored row `2 i + half` of a head is its row `half * width / 2 + i`.
    pub interleaved: Option<usize>,
}

/// A name that two tensors have.
pub(super) fn duplicate(tensors: &[TensorInfo]) -> Option<&str> {
    let mut names = HashSet::new();
    tensors.iter().map(|t| t.name.as_str()).find(|name| !names.insert(*name))
}

pub(super) struct Head {
    pub(super) fields: HashMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
}

pub(super) async fn read_head(source: &dyn Source, file: &str, size: u64) -> Result<Head> {
    let mut r = Cursor::new(source, file, size);
    r.need(8)?;
    let magic = r.bytes(4).await?;
    if magic != b"GGUF" {
        r.at = 0;
        let start = r.bytes(size.min(64)).await?;
        let reason = impostor(&start).unwrap_or("this is not a GGUF file: it does not begin with GGUF");
        return Err(Error::Io { file: file.into(), reason: reason.into() });
    }
    match r.u32().await? {
        2 | 3 => {}
        n @ (0x0200_0000 | 0x0300_0000) => {
            return Err(r.error(4, format!("version {} in big-endian order, which is not read", n >> 24)));
        }
        n => return Err(r.error(4, format!("version {n}, and 2 and 3 are read"))),
    }
    let tensor_count = r.u64().await?;
    let field_count = r.u64().await?;
    // The shortest of each: an empty name, a byte's value; a name, one axis.
    r.need_count(field_count, 13)?;
    let mut fields = HashMap::new();
    for _ in 0..field_count {
        let start = r.at;
        let key = r.text(MAX_KEY_BYTES).await?;
        if key.is_empty() {
            return Err(r.error(start, "a field without a name".into()));
        }
        let value = r.value(&key).await?;
        if fields.insert(key.clone(), value).is_some() {
            return Err(Error::DuplicateKey { file: file.into(), key: printable(&key) });
        }
    }
    let alignment = match fields.get("general.alignment") {
        None => 32,
        Some(Value::Whole(n)) if n.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(n) => *n,
        Some(other) => {
            let rule = format!("expected a power of two from 8 to {MAX_ALIGNMENT}, found {}", other.kind());
            return Err(config_error(file, "general.alignment".into(), rule));
        }
    };
    r.need_count(tensor_count, 32)?;
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(read_tensor(&mut r, alignment).await?);
    }
    if let Some(twice) = duplicate(&tensors) {
        return Err(Error::DuplicateKey { file: file.into(), key: printable(twice) });
    }
    place(file, size, r.at.next_multiple_of(alignment), &mut tensors)?;
    Ok(Head { fields, tensors })
}

/// Turns offsets that are relative to the data, which begin at `data`, into places in the file of `size` bytes.
fn place(file: &str, size: u64, data: u64, tensors: &mut [TensorInfo]) -> Result<()> {
    let mut order: Vec<_> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (tensors[i].offset, tensors[i].bytes));
    let mut end = 0;
    for i in order {
        let t = &mut tensors[i];
        let tensor = || printable(&t.name);
        if t.offset < end {
            let reason = format!("it begins at byte {} of the data, within the tensor before it", t.offset);
            return Err(Error::TensorRange { file: file.into(), tensor: tensor(), reason });
        }
        let overflow = || Error::Overflow { file: file.into(), tensor: tensor() };
        end = t.offset.checked_add(t.bytes).ok_or_else(overflow)?;
        let need = data.checked_add(end).ok_or_else(overflow)?;
        if need > size {
            return Err(Error::Truncated { file: file.into(), need, have: size });
        }
        t.offset += data;
    }
    Ok(())
}

/// One tensor's entry; the offset stays relative to the data.
async fn read_tensor(r: &mut Cursor<'_>, alignment: u64) -> Result<TensorInfo> {
    let start = r.at;
    let name = r.text(MAX_KEY_BYTES).await?;
    let file = r.file.to_string();
    let tensor = printable(&name);
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(r.error(start, format!("a tensor with the name {tensor:?}")));
    }
    let rank = r.u32().await?;
    if !(1..=4).contains(&rank) {
        let reason = format!("it has {rank} axes, and 1 to 4 are read");
        return Err(Error::TensorRange { file, tensor, reason });
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(r.u64().await?);
    }
    let kind = r.u32().await?;
    let offset = r.u64().await?;
    let dtype = match TensorType::from_number(kind) {
        Ok(dtype) => dtype,
        Err(found) => return Err(Error::DType { file, tensor, expected: TensorType::READ.into(), found }),
    };
    let refuse = |reason: String| Error::TensorRange { file: file.clone(), tensor: tensor.clone(), reason };
    let overflow = || Error::Overflow { file: file.clone(), tensor: tensor.clone() };
    let (block, block_bytes) = dtype.unit();
    if shape[0] % block != 0 {
        return Err(refuse(format!("its rows of {} elements are not whole blocks of {block}", shape[0])));
    }
    if shape.contains(&0) {
        return Err(refuse("an axis is 0".into()));
    }
    let count = shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis)).filter(|n| *n <= i64::MAX as u64);
    let bytes = count.and_then(|n| (n / block).checked_mul(block_bytes)).ok_or_else(overflow)?;
    if offset % alignment != 0 {
        return Err(refuse(format!("its offset {offset} is not a multiple of the alignment {alignment}")));
    }
    shape.reverse();
    Ok(TensorInfo { name, dtype, shape, offset, bytes, interleaved: None })
}
