//! Weight matrices as they lie in GPU memory: one planar layout for every format.
//!
//! A row's elements stand in whole 16-byte groups, zeros behind the last (32 four-bit, 16 eight-bit, 8 sixteen-bit or
//! 4 f32 elements a group), low bits first. Integers are unsigned; an element is `scale * q + offset` with one scale and
//! one offset for `group` neighbours of a row. Without offsets an integer's is `-scale * 2^(bits - 1)`.
//! A matrix larger than one binding or texture is several parts, one below the other. In textures a part has whole
//! blocks of rows, in an order of their own: see [`BLOCK_ROWS`](crate::device::tensor::BLOCK_ROWS).

use half::{bf16, f16};

use crate::device::Pool;
use crate::device::tensor::{DType, Tensor};
use crate::error::Result;

/// How elements are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    F32,
    F16,
    BF16,
    /// Unsigned integers of 4 or 8 bits; `group` neighbours of a row share a scale.
    Int {
        bits: u32,
        group: usize,
    },
}

impl Format {
    pub fn bits(self) -> usize {
        match self {
            Format::F32 => 32,
            Format::F16 | Format::BF16 => 16,
            Format::Int { bits, .. } => bits as usize,
        }
    }

    /// 32-bit words that a row of `cols` elements takes.
    pub fn row_words(self, cols: usize) -> usize {
        (cols * self.bits()).div_ceil(128) * 4
    }

    /// Scales that a row of `cols` elements has.
    pub fn groups(self, cols: usize) -> usize {
        match self {
            Format::Int { group, .. } => cols.div_ceil(group),
            _ => 0,
        }
    }

    /// Whether the elements that share a scale are whole 16-byte pieces of a row.
    pub fn has_whole_pieces(self, cols: usize) -> bool {
        match self {
            Format::Int { bits, group } => group.is_multiple_of(128 / bits as usize) || group >= cols,
            _ => true,
        }
    }

    /// The value of the shaders' constant `FORMAT`.
    pub fn code(self) -> f64 {
        match self {
            Format::F32 => 0.0,
            Format::F16 => 1.0,
            Format::BF16 => 2.0,
            Format::Int { bits, .. } => bits as f64,
        }
    }
}

/// The value of the shaders' constants that name the storage of floats.
pub fn dtype_code(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::U32 => 0.0,
        DType::F16 => 1.0,
        DType::BF16 => 2.0,
    }
}

/// Some neighbouring rows of a matrix, in buffers or textures of their own.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Rows of the matrix above this part.
    pub first_row: usize,
    pub rows: usize,
    pub format: Format,
    /// U32 [rows, row_words]; in textures, rows are whole blocks, here and below.
    pub words: Tensor,
    /// Floats [rows, groups]; integers only.
    pub scales: Option<Tensor>,
    /// F32 [rows, groups]; integers whose zero is not in the middle only.
    pub offsets: Option<Tensor>,
}

impl Part {
    /// What shaders need to know of the format.
    pub fn constants(&self) -> [(&'static str, f64); 3] {
        let flag = |value: bool| f64::from(u8::from(value));
        let scales = self.scales.map_or(DType::F32, |scales| scales.dtype);
        [("FORMAT", self.format.code()), ("SCALES", dtype_code(scales)), ("OFFSETS", flag(self.offsets.is_some()))]
    }

    /// Words, scales and offsets. What is not there is never read: the words stand in for it.
    pub fn tensors(&self) -> [Tensor; 3] {
        [self.words, self.scales.unwrap_or(self.words), self.offsets.unwrap_or(self.words)]
    }

    /// Elements of a row of `cols` that share a scale.
    pub fn group(&self, cols: usize) -> usize {
        match self.format {
            Format::Int { group, .. } => group,
            _ => cols,
        }
    }
}

/// A weight matrix [rows, cols]; a linear layer's has a row an output.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub parts: Vec<Part>,
}

impl Matrix {
    /// A matrix of f32 values stored as `format`, one of the float formats.
    pub fn from_f32(pool: &mut Pool, rows: usize, cols: usize, values: &[f32], format: Format) -> Result<Matrix> {
        assert_eq!(values.len(), rows * cols);
        let storage = pool.device().info().weights;
        let words = pool.alloc_in(storage, DType::U32, &[storage.rows(rows), format.row_words(cols)])?;
        pool.device().write_rows(words, 0, bytemuck::cast_slice(&pack_f32(cols, values, format)))?;
        let part = Part { first_row: 0, rows, format, words, scales: None, offsets: None };
        Ok(Matrix { rows, cols, parts: vec![part] })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let tensors = self.parts.iter().flat_map(|p| [Some(p.words), p.scales, p.offsets]).flatten();
        tensors.map(|t| t.held_bytes() as u64).sum()
    }
}

/// The words of rows of `cols` f32 values stored as `format`, one of the float formats.
pub fn pack_f32(cols: usize, values: &[f32], format: Format) -> Vec<u32> {
    let row_words = format.row_words(cols);
    let mut words = vec![0u32; values.len() / cols * row_words];
    for (row, values) in words.chunks_mut(row_words).zip(values.chunks(cols)) {
        for (c, &v) in values.iter().enumerate() {
            match format {
                Format::F32 => row[c] = v.to_bits(),
                Format::F16 => row[c / 2] |= u32::from(f16::from_f32(v).to_bits()) << (16 * (c % 2)),
                Format::BF16 => row[c / 2] |= u32::from(bf16::from_f32(v).to_bits()) << (16 * (c % 2)),
                Format::Int { .. } => panic!("pack_f32 stores floats"),
            }
        }
    }
    words
}

/// Reads float `index` of an array of `dtype` floats in 32-bit words.
pub fn read_float(words: &[u32], dtype: DType, index: usize) -> f32 {
    let half_word = |i: usize| (words[i / 2] >> (16 * (i % 2))) as u16;
    match dtype {
        DType::F32 | DType::U32 => f32::from_bits(words[index]),
        DType::F16 => f16::from_bits(half_word(index)).to_f32(),
        DType::BF16 => bf16::from_bits(half_word(index)).to_f32(),
    }
}

/// Writes row `row` of a part as f32 into `out` `[cols]`: what every kernel's unpacking means.
/// `scales` are the part's scales with their type.
pub fn unpack_row(
    format: Format,
    cols: usize,
    row: usize,
    words: &[u32],
    scales: Option<(&[u32], DType)>,
    offsets: Option<&[f32]>,
    out: &mut [f32],
) {
    let stride = format.row_words(cols);
    let words = &words[row * stride..][..stride];
    match format {
        Format::F32 => out.iter_mut().zip(words).for_each(|(o, w)| *o = f32::from_bits(*w)),
        Format::F16 | Format::BF16 => {
            let dtype = if format == Format::F16 { DType::F16 } else { DType::BF16 };
            out.iter_mut().enumerate().for_each(|(c, o)| *o = read_float(words, dtype, c));
        }
        Format::Int { bits, group } => {
            let (scales, dtype) = scales.expect("integers have scales");
            let first = row * format.groups(cols);
            let per_word = 32 / bits as usize;
            for (g, out) in out.chunks_mut(group).enumerate() {
                let scale = read_float(scales, dtype, first + g);
                let offset = offsets.map_or(-scale * (1u32 << (bits - 1)) as f32, |o| o[first + g]);
                for (i, o) in out.iter_mut().enumerate() {
                    let c = g * group + i;
                    let q = (words[c / per_word] >> (bits as usize * (c % per_word))) & ((1u32 << bits) - 1);
                    *o = scale * q as f32 + offset;
                }
            }
        }
    }
}
