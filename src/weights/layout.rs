//! How weight matrices lie in device memory: the one place that knows. `shaders/shared/matrix*.wgsl` read what this file
//! writes.
//!
//! A row's elements stand in whole pieces of 16 bytes, zeros behind the last (32 four-bit, 16 eight-bit, 8 sixteen-bit or
//! 4 f32 elements a piece), low bits first. Integers are unsigned; an element is `scale * q + offset` with one scale and
//! one offset for `group` neighbours of a row. Without offsets an integer's is `-scale * 2^(bits - 1)`.
//! A matrix larger than one binding or texture is several parts, one below the other. Rows stand in blocks: see
//! [`BLOCK_ROWS`]. In a texture a texel is a piece, or a word of scales or offsets.

use half::{bf16, f16};

use crate::device::Device;
use crate::device::tensor::{DType, MAX_TEXELS, Storage, Tensor};
use crate::error::Result;
use crate::room::zeros;

/// What needs memory, for messages.
const WEIGHTS: &str = "weights on their way";

/// Bytes of a piece of a row: what a shader loads at a time.
pub const PIECE_BYTES: usize = 16;

/// The most elements that a piece has: 4-bit ones.
pub const MAX_PIECE_LEN: usize = PIECE_BYTES * 8 / 4;

/// Rows of a matrix that lie together: the first piece of each, then the second of each, and so on; of one piece, those
/// of rows 0, 4, .. 28, then of 1, 5, .. 29, of 2, 6, .. 30 and of 3, 7, .. 31. Eight invocations that make four
/// neighbouring outputs each read memory from front to back, as processors like it, and each of their four loads is a
/// whole line of 128 bytes, as GPUs like it. Scales and offsets stand in the same order.
pub const BLOCK_ROWS: usize = 32;

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

    /// Pieces that a row of `cols` elements takes.
    pub fn row_pieces(self, cols: usize) -> usize {
        (cols * self.bits()).div_ceil(8 * PIECE_BYTES)
    }

    /// 32-bit words that a row of `cols` elements takes.
    pub fn row_words(self, cols: usize) -> usize {
        self.row_pieces(cols) * PIECE_BYTES / 4
    }

    /// Scales that a row of `cols` elements has.
    pub fn groups(self, cols: usize) -> usize {
        match self {
            Format::Int { group, .. } => cols.div_ceil(group),
            _ => 0,
        }
    }

    /// Whether the elements that share a scale are whole pieces of a row.
    pub fn has_whole_pieces(self, cols: usize) -> bool {
        match self {
            Format::Int { bits, group } => group.is_multiple_of(8 * PIECE_BYTES / bits as usize) || group >= cols,
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

/// How the rows of one part of a matrix are stored, and in what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// What holds the words.
    pub storage: Storage,
    pub cols: usize,
    pub format: Format,
    /// The type of the scales; integers only.
    pub scales: Option<DType>,
    /// Whether integers have offsets.
    pub offsets: bool,
}

impl Layout {
    /// A matrix of `cols` columns of floats.
    pub fn floats(storage: Storage, cols: usize, format: Format) -> Layout {
        Layout { storage, cols, format, scales: None, offsets: false }
    }

    /// Storage, type and shape of what holds the words, the scales and the offsets of `rows` rows, where they are any.
    pub fn tensors(&self, rows: usize) -> [Option<(Storage, DType, [usize; 2])>; 3] {
        let rows = rows.next_multiple_of(BLOCK_ROWS);
        let groups = [rows, self.format.groups(self.cols)];
        // Single words, where a texel of the words is four.
        let beside = match self.storage {
            Storage::Buffer => Storage::Buffer,
            Storage::Words | Storage::Pieces => Storage::Words,
        };
        [
            Some((self.storage, DType::U32, [rows, self.format.row_words(self.cols)])),
            self.scales.map(|dtype| (beside, dtype, groups)),
            self.offsets.then_some((beside, DType::F32, groups)),
        ]
    }

    /// Whether another matrix's rows can stand below `rows` rows in one part: writing begins at a block's first row.
    pub fn ends_a_block(&self, rows: usize) -> bool {
        rows.is_multiple_of(BLOCK_ROWS)
    }

    /// Rows that one part can hold on a device whose bindings have at most `max_binding_bytes`.
    pub fn rows_per_part(&self, max_binding_bytes: u64) -> usize {
        let pieces = self.format.row_pieces(self.cols);
        let most = match self.storage {
            Storage::Buffer => (max_binding_bytes / (pieces * PIECE_BYTES) as u64) as usize,
            Storage::Words | Storage::Pieces => MAX_TEXELS / pieces.max(self.format.groups(self.cols)),
        };
        (most / BLOCK_ROWS * BLOCK_ROWS).max(BLOCK_ROWS)
    }
}

/// Writes whole rows of a matrix's words, scales or offsets to what holds them, from row `first_row` on: a multiple of
/// `BLOCK_ROWS`, as is the number of rows unless they are the last.
///
/// # Errors
/// `E_DEVICE_LOST` and `E_GPU` from the GPU; `E_OOM`.
pub fn write_rows(device: &Device, tensor: Tensor, first_row: usize, rows: &[u8]) -> Result<()> {
    let row_bytes = tensor.width() * tensor.dtype.bytes();
    let offset = first_row * row_bytes;
    assert!(first_row.is_multiple_of(BLOCK_ROWS), "row {first_row} of {tensor:?} begins no block");
    let blocks = match tensor.dtype {
        DType::U32 => in_blocks::<PIECE_BYTES>(rows, row_bytes)?,
        DType::F32 => in_blocks::<4>(rows, row_bytes)?,
        DType::F16 | DType::BF16 => in_blocks::<2>(rows, row_bytes)?,
    };
    device.write(tensor, offset, &blocks)
}

/// Where a piece of a row stands among those of its block.
fn place_in_block(row: usize) -> usize {
    row % 4 * 8 + row % BLOCK_ROWS / 4
}

/// Rows of a matrix, `row_bytes` each, in the order that devices hold them in, zeros behind the last; a piece of a row
/// has `N` bytes.
fn in_blocks<const N: usize>(rows: &[u8], row_bytes: usize) -> Result<Vec<u8>> {
    let block_bytes = BLOCK_ROWS * row_bytes;
    let mut out = zeros(WEIGHTS, rows.len().next_multiple_of(block_bytes))?;
    for (rows, block) in rows.chunks(block_bytes).zip(out.chunks_mut(block_bytes)) {
        for (row, pieces) in rows.chunks(row_bytes).enumerate() {
            let at = place_in_block(row) * N;
            for (piece, places) in pieces.chunks_exact(N).zip(block.chunks_exact_mut(BLOCK_ROWS * N)) {
                places[at..at + N].copy_from_slice(piece);
            }
        }
    }
    Ok(out)
}

/// The words of rows of `cols` f32 values stored as `format`, one of the float formats.
///
/// # Errors
/// `E_OOM`.
pub fn pack_f32(cols: usize, values: &[f32], format: Format) -> Result<Vec<u32>> {
    let row_words = format.row_words(cols);
    let mut words: Vec<u32> = zeros(WEIGHTS, values.len() / cols * row_words)?;
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
    Ok(words)
}

/// Where an element of a matrix of f32 lies, whose rows have `width` elements, whole pieces.
pub fn float_index(row: usize, column: usize, width: usize) -> usize {
    let per_piece = PIECE_BYTES / 4;
    index_of(row, column / per_piece, width / per_piece) * per_piece + column % per_piece
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

/// The words, scales and offsets of some rows of a matrix, as they lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    pub cols: usize,
    pub format: Format,
    pub words: &'a [u32],
    /// With their type; integers only.
    pub scales: Option<(&'a [u32], DType)>,
    pub offsets: Option<&'a [f32]>,
}

impl StoredRows<'_> {
    /// Writes row `row` as f32 into `out` `[cols]`: what every kernel's unpacking means.
    pub fn unpack(&self, row: usize, out: &mut [f32]) {
        let words = self.row_words(row);
        match self.format {
            Format::F32 => out.iter_mut().zip(&words[..]).for_each(|(o, w)| *o = f32::from_bits(*w)),
            Format::F16 | Format::BF16 => {
                let dtype = if self.format == Format::F16 { DType::F16 } else { DType::BF16 };
                out.iter_mut().enumerate().for_each(|(c, o)| *o = read_float(&words, dtype, c));
            }
            Format::Int { bits, group } => {
                let (scales, dtype) = self.scales.expect("integers have scales");
                let groups = self.format.groups(self.cols);
                let per_word = 32 / bits as usize;
                for (g, out) in out.chunks_mut(group).enumerate() {
                    let at = index_of(row, g, groups);
                    let scale = read_float(scales, dtype, at);
                    let offset = self.offsets.map_or(-scale * (1u32 << (bits - 1)) as f32, |o| o[at]);
                    for (i, o) in out.iter_mut().enumerate() {
                        let c = g * group + i;
                        let q = (words[c / per_word] >> (bits as usize * (c % per_word))) & ((1u32 << bits) - 1);
                        *o = scale * q as f32 + offset;
                    }
                }
            }
        }
    }

    /// The words of a row, one behind the other.
    fn row_words(&self, row: usize) -> Vec<u32> {
        const PIECE: usize = PIECE_BYTES / 4;
        let pieces = self.format.row_pieces(self.cols);
        let piece = |i| &self.words[index_of(row, i, pieces) * PIECE..][..PIECE];
        (0..pieces).flat_map(piece).copied().collect()
    }
}

/// Where piece, scale or offset `at` of row `row` lies, in rows of `width` of them.
fn index_of(row: usize, at: usize, width: usize) -> usize {
    (row / BLOCK_ROWS * width + at) * BLOCK_ROWS + place_in_block(row)
}
