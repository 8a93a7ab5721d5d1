//! The header of a safetensors file, checked.
//!
//! Layout: 8 bytes, the header's length N as u64 little-endian; N bytes of JSON, `{"name": {"dtype", "shape",
//! "data_offsets": [begin, end]}, "__metadata__": {text: text}}`; the data, to which the offsets are relative.
//! Source: <https://github.com/huggingface/safetensors>. That crate's visitor takes `usize` offsets (32 bits in a
//! browser), the whole file as one slice, and the last of two entries with one name; hence this one. It holds nothing
//! but the names and shapes, so its memory is bounded by the header, and that by the real file.

use super::tensor_type::TensorType;
use crate::error::{Error, Result, printable};
use crate::files::json::{json_offset, json_reason};
use crate::files::source::impostor;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// The longest header that is read, in bytes; the safetensors format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The longest tensor name in bytes, and the most axes.
const MAX_NAME_BYTES: usize = 4096;
const MAX_RANK: usize = 64;

/// Where a tensor lies and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// The element type.
    pub dtype: TensorType,
    /// Row-major; empty for a single number, and an axis may be 0: callers that need data say so.
    pub shape: Vec<u64>,
    /// Which of the folder's files holds it.
    pub file: usize,
    /// Its first byte, counted from the start of that file. Not aligned to anything.
    pub offset: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn len(&self) -> u64 {
        self.bytes / self.dtype.bytes() as u64
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// The length N of the header, out of the file's first bytes (8 at least; more of them let a web page or a Git LFS
/// pointer be told for what it is).
///
/// # Errors
/// `E_TRUNCATED` when the file is shorter than its header, `E_HEADER` when N is 0 to 1 or above
/// `MAX_HEADER_BYTES`, `E_IO` when the file is no safetensors file at all.
pub fn header_length(file: &str, total_bytes: u64, start: &[u8]) -> Result<u64> {
    if let Some(reason) = impostor(start) {
        return Err(Error::Io { file: file.into(), reason: reason.into() });
    }
    let Some(length) = start.first_chunk::<8>() else {
        return Err(Error::Truncated { file: file.into(), need: 8, have: total_bytes });
    };
    let length = u64::from_le_bytes(*length);
    if !(2..=MAX_HEADER_BYTES).contains(&length) {
        let reason = format!("the header's length is {length}, expected 2 to {MAX_HEADER_BYTES} bytes");
        return Err(Error::Header { file: file.into(), offset: 0, reason });
    }
    if total_bytes < 8 + length {
        return Err(Error::Truncated { file: file.into(), need: 8 + length, have: total_bytes });
    }
    Ok(length)
}

/// The tensors that a header lists, in the order of their data. `json` is the header without the 8 bytes in front,
/// `total_bytes` the size of the whole file; `file` in the result is 0.
///
/// # Errors
/// - `E_HEADER`: not JSON of the layout above; a name with control characters or longer than 4096 bytes.
/// - `E_DUP_KEY`: a name, or a field of an entry, twice.
/// - `E_DTYPE`: an element type that is unknown or narrower than a byte.
/// - `E_OVERFLOW`: a size that 64 bits do not hold.
/// - `E_TENSOR_RANGE`: offsets that overlap, leave a hole or trailing bytes, or do not fit shape and type; over 64 axes.
/// - `E_TRUNCATED`: all of that is in order, but the file ends before its data do.
pub fn parse_header(file: &str, total_bytes: u64, json: &[u8]) -> Result<Vec<TensorInfo>> {
    let header_error =
        |offset: usize, reason: String| Error::Header { file: file.into(), offset: 8 + offset as u64, reason };
    if json.first() != Some(&b'{') {
        return Err(header_error(0, "the header does not begin with {".into()));
    }
    let text = std::str::from_utf8(json).map_err(|e| header_error(e.valid_up_to(), "not UTF-8".into()))?;

    let mut visitor = HeaderVisitor { file, fault: None, tensors: Vec::new() };
    let mut json_reader = serde_json::Deserializer::from_str(text);
    let parsed = (&mut visitor).deserialize(&mut json_reader).and_then(|()| json_reader.end());
    if let Err(e) = parsed {
        let fault = visitor.fault.take();
        return Err(fault.unwrap_or_else(|| header_error(json_offset(json, &e), json_reason(&e))));
    }
    let mut tensors = visitor.tensors;
    let range_error =
        |tensor: &str, reason: String| Error::TensorRange { file: file.into(), tensor: printable(tensor), reason };

    // Offsets are still relative to the data here.
    tensors.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
    let mut end = 0u64;
    for t in &tensors {
        if t.offset != end {
            let what = if t.offset < end { "overlaps the tensor before it" } else { "leaves a hole before it" };
            let reason = format!("it begins at byte {} of the data and {what}, which ends at {end}", t.offset);
            return Err(range_error(&t.name, reason));
        }
        end += t.bytes; // cannot overflow: `entry` has checked that this is its end offset
    }
    let data = 8 + json.len() as u64;
    let need = data
        .checked_add(end)
        .ok_or_else(|| Error::Overflow { file: file.into(), tensor: "the data as a whole".into() })?;
    if need > total_bytes {
        return Err(Error::Truncated { file: file.into(), need, have: total_bytes });
    }
    if need < total_bytes {
        let last = tensors.last().map_or("(none)", |t| &t.name);
        let reason = format!("{} bytes follow the last tensor, which belong to none", total_bytes - need);
        return Err(range_error(last, reason));
    }
    for t in &mut tensors {
        t.offset += data;
    }
    Ok(tensors)
}

/// Reads the header entry by entry. What is wrong beyond JSON's own rules goes to `fault`, which then is the error.
struct HeaderVisitor<'f> {
    file: &'f str,
    fault: Option<Error>,
    tensors: Vec<TensorInfo>,
}

impl HeaderVisitor<'_> {
    fn fail<T, E: serde::de::Error>(&mut self, fault: Error) -> std::result::Result<T, E> {
        self.fault = Some(fault);
        Err(E::custom("refused"))
    }

    fn duplicate<T, E: serde::de::Error>(&mut self, key: &str) -> std::result::Result<T, E> {
        self.fail(Error::DuplicateKey { file: self.file.into(), key: printable(key) })
    }

    /// Checks one entry on its own; `offset` becomes its begin, relative to the data.
    fn entry<E: serde::de::Error>(&mut self, name: String, entry: RawEntry) -> std::result::Result<(), E> {
        let RawEntry { dtype, shape, data_offsets } = entry;
        let (file, tensor) = (self.file.to_string(), printable(&name));
        let (Some(dtype), Some(shape), Some((begin, end))) = (dtype, shape, data_offsets) else {
            return Err(E::custom(format!("{tensor} lacks dtype, shape or data_offsets")));
        };
        let Some(dtype) = TensorType::from_name(&dtype) else {
            let expected = "a type of whole bytes that safetensors knows, such as F32, F16, BF16 or I64".into();
            return self.fail(Error::DType { file, tensor, expected, found: printable(&dtype) });
        };
        if shape.len() > MAX_RANK {
            let reason = format!("it has {} axes, and at most {MAX_RANK} are read", shape.len());
            return self.fail(Error::TensorRange { file, tensor, reason });
        }
        let count = shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis));
        let Some(bytes) = count.and_then(|n| n.checked_mul(dtype.bytes() as u64)) else {
            return self.fail(Error::Overflow { file, tensor });
        };
        if end.checked_sub(begin) != Some(bytes) {
            let reason =
                format!("shape {shape:?} of {dtype} takes {bytes} bytes, its data_offsets are {begin} to {end}");
            return self.fail(Error::TensorRange { file, tensor, reason });
        }
        self.tensors.push(TensorInfo { name, dtype, shape, file: 0, offset: begin, bytes });
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut HeaderVisitor<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut HeaderVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
                let reason =
                    format!("the name {} has control characters or over {MAX_NAME_BYTES} bytes", printable(&name));
                return Err(A::Error::custom(reason));
            }
            if !names.insert(name.clone()) {
                return self.duplicate(&name);
            }
            if name == "__metadata__" {
                map.next_value_seed(Metadata(self))?;
            } else {
                let entry = map.next_value_seed(EntrySeed { visitor: self, name: &name })?;
                self.entry(name, entry)?;
            }
        }
        Ok(())
    }
}

/// `__metadata__`: texts by name, of which nothing is used.
struct Metadata<'r, 'f>(&'r mut HeaderVisitor<'f>);

impl<'de> DeserializeSeed<'de> for Metadata<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts as __metadata__")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, _)) = map.next_entry::<String, String>()? {
            if !keys.insert(key.clone()) {
                return self.0.duplicate(&format!("__metadata__.{key}"));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct RawEntry {
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    data_offsets: Option<(u64, u64)>,
}

struct EntrySeed<'r, 'f> {
    visitor: &'r mut HeaderVisitor<'f>,
    name: &'r str,
}

impl<'de> DeserializeSeed<'de> for EntrySeed<'_, '_> {
    type Value = RawEntry;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<RawEntry, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_, '_> {
    type Value = RawEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawEntry, A::Error> {
        let mut entry = RawEntry::default();
        while let Some(key) = map.next_key::<String>()? {
            let again = match key.as_str() {
                "dtype" => entry.dtype.replace(map.next_value()?).is_some(),
                "shape" => entry.shape.replace(map.next_value()?).is_some(),
                "data_offsets" => entry.data_offsets.replace(map.next_value()?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if again {
                return self.visitor.duplicate(&format!("{}.{key}", self.name));
            }
        }
        Ok(entry)
    }
}
