//! The head of a file from front to back: numbers, texts and fields' values.

use super::value::Value;
use crate::error::{Error, Result, printable};
use crate::files::source::Source;
use crate::room::room;

/// Bytes of the head that are read at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// Texts longer than this are passed over, and refused where the model needs them.
const MAX_TEXT_BYTES: u64 = 64 << 10;

/// The lists that are kept; others are passed over.
const LISTS: [&str; 4] =
    ["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"];

/// Reads the head from front to back. No length is believed before the file is known to be as long.
pub(super) struct Cursor<'a> {
    source: &'a dyn Source,
    pub(super) file: &'a str,
    size: u64,
    /// The next byte.
    pub(super) at: u64,
    piece: Vec<u8>,
    piece_at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn Source, file: &'a str, size: u64) -> Cursor<'a> {
        Cursor { source, file, size, at: 0, piece: Vec::new(), piece_at: 0 }
    }

    pub(super) fn error(&self, offset: u64, reason: String) -> Error {
        Error::Header { file: self.file.into(), offset, reason }
    }

    /// Fails unless `bytes` more are there.
    pub(super) fn need(&self, bytes: u64) -> Result<()> {
        let need = self.at.saturating_add(bytes);
        if need > self.size {
            return Err(Error::Truncated { file: self.file.into(), need, have: self.size });
        }
        Ok(())
    }

    /// Fails unless `count` things of `least` bytes or more can be there.
    pub(super) fn need_count(&self, count: u64, least: u64) -> Result<()> {
        self.need(count.saturating_mul(least))
    }

    pub(super) async fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        self.need(count)?;
        let mut out = room(self.file, count as usize)?;
        while (out.len() as u64) < count {
            let start = self.at.wrapping_sub(self.piece_at);
            if self.at < self.piece_at || start >= self.piece.len() as u64 {
                self.piece.resize(PIECE_BYTES.min(self.size - self.at) as usize, 0);
                self.piece_at = self.at;
                self.source.read(self.file, self.at, &mut self.piece).await?;
                continue;
            }
            let piece = &self.piece[start as usize..];
            let taken = piece.len().min(count as usize - out.len());
            out.extend_from_slice(&piece[..taken]);
            self.at += taken as u64;
        }
        Ok(out)
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N as u64).await?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    pub(super) async fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array().await?))
    }

    pub(super) async fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array().await?))
    }

    pub(super) async fn text(&mut self, most: u64) -> Result<String> {
        let start = self.at;
        let length = self.u64().await?;
        if length > most {
            return Err(self.error(start, format!("a text of {length} bytes, and at most {most} are read here")));
        }
        let bytes = self.bytes(length).await?;
        String::from_utf8(bytes).map_err(|_| self.error(start, "a text that is not UTF-8".into()))
    }

    /// Bytes of a number of the type `kind`; none for texts, lists and unknown types.
    fn width(kind: u32) -> Option<u64> {
        match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        }
    }

    /// A number of the type `kind`.
    async fn number(&mut self, kind: u32) -> Result<Value> {
        let start = self.at;
        let signed = |n: i64| if n < 0 { Value::Negative(n) } else { Value::Whole(n as u64) };
        Ok(match kind {
            0 => Value::Whole(self.array::<1>().await?[0].into()),
            1 => signed(i8::from_le_bytes(self.array().await?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array().await?).into()),
            3 => signed(i16::from_le_bytes(self.array().await?).into()),
            4 => Value::Whole(self.u32().await?.into()),
            5 => signed(i32::from_le_bytes(self.array().await?).into()),
            6 => Value::Number(f32::from_le_bytes(self.array().await?).into()),
            7 => match self.array::<1>().await?[0] {
                0 => Value::Flag(false),
                1 => Value::Flag(true),
                n => return Err(self.error(start, format!("expected 0 or 1 for no or yes, found {n}"))),
            },
            10 => Value::Whole(self.u64().await?),
            11 => signed(i64::from_le_bytes(self.array().await?)),
            12 => Value::Number(f64::from_le_bytes(self.array().await?)),
            _ => return Err(self.error(start, format!("a value of the unknown type {kind}"))),
        })
    }

    pub(super) async fn value(&mut self, key: &str) -> Result<Value> {
        let start = self.at;
        match self.u32().await? {
            8 => {
                let start = self.at;
                let length = self.u64().await?;
                if length > MAX_TEXT_BYTES {
                    self.need(length)?;
                    self.at += length;
                    return Ok(Value::Other("a long text"));
                }
                self.at = start;
                Ok(Value::Text(self.text(MAX_TEXT_BYTES).await?))
            }
            9 => self.list(key).await,
            kind if Cursor::width(kind).is_some() => self.number(kind).await,
            kind => Err(self.error(start, format!("{}: a value of the unknown type {kind}", printable(key)))),
        }
    }

    async fn list(&mut self, key: &str) -> Result<Value> {
        let start = self.at;
        let kind = self.u32().await?;
        let length = self.u64().await?;
        let keep = LISTS.contains(&key);
        if kind == 8 {
            self.need_count(length, 8)?;
            let mut texts = Vec::new();
            for _ in 0..length {
                if keep {
                    texts.push(self.text(MAX_TEXT_BYTES).await?);
                } else {
                    let bytes = self.u64().await?;
                    self.need(bytes)?;
                    self.at += bytes;
                }
            }
            return Ok(if keep { Value::Texts(texts) } else { Value::Other("a list of texts") });
        }
        let Some(width) = Cursor::width(kind) else {
            let what =
                if kind == 9 { "lists of lists are not read".into() } else { format!("the unknown type {kind}") };
            return Err(self.error(start, format!("{}: a list of {what}", printable(key))));
        };
        self.need_count(length, width)?;
        if !keep {
            self.at += length * width;
            return Ok(Value::Other("a list"));
        }
        let (mut numbers, mut wholes) = (Vec::new(), Vec::new());
        for _ in 0..length {
            match self.number(kind).await? {
                Value::Number(x) => numbers.push(x as f32),
                Value::Whole(n) => wholes.push(i64::try_from(n).unwrap_or(i64::MAX)),
                Value::Negative(n) => wholes.push(n),
                _ => return Err(self.error(start, format!("{}: expected a list of numbers", printable(key)))),
            }
        }
        Ok(if matches!(kind, 6 | 12) { Value::Numbers(numbers) } else { Value::Wholes(wholes) })
    }
}
