//! GGUF's blocks of packed weights -> the planar [`layout`](crate::weights::layout), without a step between.
//!
//! Source of the layouts: ggml's `ggml-common.h` and `dequantize_row_*` (<https://github.com/ggml-org/ggml>). Every
//! type is `scale * q + offset` with unsigned `q`: Q4_0 `d (q - 8)`, Q4_1 `d q + m`, Q8_0 `d (q - 128)` once the sign
//! is moved, Q4_K and Q5_K `(d s) q - (dmin m)` a 32 neighbours, Q6_K `(d s) (q - 32)` a 16.

use half::f16;

use crate::device::tensor::DType;
use crate::files::gguf::BlockType;
use crate::weights::layout::Format;

/// Scales and offsets of groups, in their order.
#[derive(Default)]
pub struct GroupScales {
    /// In the type that the part keeps them in: for blocks, what [`on_device`] names.
    pub scales: Vec<u8>,
    /// None where the zero is in the middle.
    pub offsets: Vec<f32>,
}

/// How a packed type lies in device memory: format, type of the scales, whether there are offsets. Scales stay f16
/// where a block stores them so, and are f32 where they are products.
pub fn on_device(dtype: BlockType) -> (Format, DType, bool) {
    match dtype {
        BlockType::Q4_0 => (Format::Int { bits: 4, group: 32 }, DType::F16, false),
        BlockType::Q4_1 => (Format::Int { bits: 4, group: 32 }, DType::F16, true),
        BlockType::Q8_0 => (Format::Int { bits: 8, group: 32 }, DType::F16, false),
        BlockType::Q4_K => (Format::Int { bits: 4, group: 32 }, DType::F32, true),
        BlockType::Q5_K => (Format::Int { bits: 8, group: 32 }, DType::F32, true),
        BlockType::Q6_K => (Format::Int { bits: 8, group: 16 }, DType::F32, false),
    }
}

/// Repacks whole blocks: appends their integers to `words`, their scales and offsets to `out`. A block's integers are
/// whole 16-byte groups, so rows need no padding.
///
/// # Errors
/// The index of the first element of a block whose scale or offset is not a finite number.
pub fn repack(dtype: BlockType, blocks: &[u8], words: &mut Vec<u32>, out: &mut GroupScales) -> Result<(), usize> {
    for (number, block) in blocks.chunks_exact(dtype.bytes()).enumerate() {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let (d, second) = (half(0), half(2));
        let mut finite = d.is_finite();
        match dtype {
            BlockType::Q4_0 | BlockType::Q4_1 => {
                out.scales.extend(&block[..2]);
                if dtype == BlockType::Q4_1 {
                    finite &= second.is_finite();
                    out.offsets.push(second.to_f32());
                }
                nibbles(block.last_chunk::<16>().expect("16 bytes of integers"), words);
            }
            BlockType::Q8_0 => {
                out.scales.extend(&block[..2]);
                // Two's complement and the offset binary of the planar layout differ in the sign bit.
                words.extend(block[2..].as_chunks().0.iter().map(|b| u32::from_le_bytes(*b) ^ 0x8080_8080));
            }
            BlockType::Q4_K | BlockType::Q5_K => {
                finite &= second.is_finite();
                for group in 0..8 {
                    let (scale, min) = scale_and_min(&block[4..16], group);
                    out.scales.extend((d.to_f32() * f32::from(scale)).to_le_bytes());
                    out.offsets.push(-second.to_f32() * f32::from(min));
                }
                let (high, low) = block[16..].split_at(if dtype == BlockType::Q5_K { 32 } else { 0 });
                // 64 elements a step: the low nibbles of 32 bytes, then their high ones.
                for (step, low) in low.chunks_exact(32).enumerate() {
                    for part in 0..2 {
                        if dtype == BlockType::Q4_K {
                            words.extend(low.chunks_exact(8).map(|b| nibbles_word(b, 4 * part)));
                        } else {
                            let bit = 2 * step + part;
                            bytes(words, 32, |i| (low[i] >> (4 * part)) & 15 | ((high[i] >> bit) & 1) << 4);
                        }
                    }
                }
            }
            BlockType::Q6_K => {
                let d = half(208);
                finite = d.is_finite();
                let scales = &block[192..208];
                out.scales.extend(scales.iter().flat_map(|&s| (d.to_f32() * f32::from(s as i8)).to_le_bytes()));
                for step in 0..2 {
                    let (low, high) = (&block[64 * step..][..64], &block[128 + 32 * step..][..32]);
                    for quarter in 0..4 {
                        let (from, shift) = (32 * (quarter % 2), 4 * (quarter / 2));
                        // From a zero at 32 to one at 128.
                        bytes(words, 32, |i| {
                            ((low[from + i] >> shift) & 15 | ((high[i] >> (2 * quarter)) & 3) << 4) + 96
                        });
                    }
                }
            }
        }
        if !finite {
            return Err(number * dtype.elements());
        }
    }
    Ok(())
}

/// 32 elements of which 16 bytes hold the first half in their low nibbles and the second in their high ones.
fn nibbles(bytes: &[u8; 16], words: &mut Vec<u32>) {
    for shift in [0, 4] {
        words.extend(bytes.chunks_exact(8).map(|b| nibbles_word(b, shift)));
    }
}

/// Eight elements: the nibbles of eight bytes at bit 0 or 4.
fn nibbles_word(bytes: &[u8], shift: usize) -> u32 {
    bytes.iter().rev().fold(0, |word, &b| word << 4 | u32::from((b >> shift) & 15))
}

/// `count` elements of 8 bits.
fn bytes(words: &mut Vec<u32>, count: usize, element: impl Fn(usize) -> u8) {
    let word = |i: usize| u32::from_le_bytes([element(i), element(i + 1), element(i + 2), element(i + 3)]);
    words.extend((0..count).step_by(4).map(word));
}

/// The 6-bit scale and minimum of one of eight groups, which 12 bytes hold.
fn scale_and_min(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let low = packed[group + 4];
    (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::tensor::Storage;
    use crate::weights::layout::{Layout, StoredRows, write_rows};

    /// The words, scales and offsets as they lie on a device.
    fn on_cpu(layout: Layout, words: &[u32], out: &GroupScales) -> [Vec<u32>; 3] {
        let device = Device::cpu();
        let mut pool = device.pool();
        let rows = words.len() / layout.format.row_words(layout.cols);
        let bytes = [bytemuck::cast_slice(words), &out.scales, bytemuck::cast_slice(&out.offsets)];
        let mut held = layout.tensors(rows).into_iter().zip(bytes).map(|(tensor, bytes)| {
            let Some((storage, dtype, shape)) = tensor else { return Vec::new() };
            let tensor = pool.alloc_in(storage, dtype, &shape).unwrap();
            write_rows(&device, tensor, 0, bytes).unwrap();
            bytemuck::pod_collect_to_vec(&pollster::block_on(device.read_bytes(tensor)).unwrap())
        });
        [(); 3].map(|()| held.next().expect("there are three"))
    }

    /// One block by ggml's own formulas, element by element.
    fn dequantized(dtype: BlockType, b: &[u8]) -> Vec<f32> {
        let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
        let d = half(0);
        let k = |j: usize| scale_and_min(&b[4..16], j);
        (0..dtype.elements())
            .map(|i| match dtype {
                BlockType::Q4_0 => d * (f32::from(b[2 + i % 16] >> (i / 16 * 4) & 15) - 8.0),
                BlockType::Q4_1 => d * f32::from(b[4 + i % 16] >> (i / 16 * 4) & 15) + half(2),
                BlockType::Q8_0 => d * f32::from(b[2 + i] as i8),
                BlockType::Q4_K => {
                    let q = b[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
                    d * f32::from(k(i / 32).0) * f32::from(q) - half(2) * f32::from(k(i / 32).1)
                }
                BlockType::Q5_K => {
                    let low = b[48 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
                    let q = low + (b[16 + i % 32] >> (i / 32) & 1) * 16;
                    d * f32::from(k(i / 32).0) * f32::from(q) - half(2) * f32::from(k(i / 32).1)
                }
                BlockType::Q6_K => {
                    let (n, l) = (i / 128, i % 32);
                    let quarter = i % 128 / 32;
                    let low = b[n * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
                    let q = i32::from(low | (b[128 + n * 32 + l] >> (2 * quarter) & 3) << 4) - 32;
                    half(208) * f32::from(b[192 + i / 16] as i8) * q as f32
                }
            })
            .collect()
    }

    #[test]
    fn repacked_blocks_hold_the_same_numbers() {
        use BlockType::*;
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        for dtype in [Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K] {
            let (rows, cols) = (3, 2 * dtype.elements());
            let mut blocks: Vec<u8> = (0..rows * 2 * dtype.bytes()).map(|_| next()).collect();
            for (i, block) in blocks.chunks_mut(dtype.bytes()).enumerate() {
                // Finite scales; one below f16's normal numbers.
                let d = f16::from_f32(if i == 1 { 3e-6 } else { 0.01 * (i as f32 - 2.5) }).to_le_bytes();
                let at = if dtype == Q6_K { 208 } else { 0 };
                block[at..at + 2].copy_from_slice(&d);
                if matches!(dtype, Q4_1 | Q4_K | Q5_K) {
                    block[2..4].copy_from_slice(&f16::from_f32(-0.3 * i as f32).to_le_bytes());
                }
            }
            let (mut words, mut out) = (Vec::new(), GroupScales::default());
            repack(dtype, &blocks, &mut words, &mut out).unwrap();
            let (format, scale_type, offsets) = on_device(dtype);
            assert_eq!(words.len(), rows * format.row_words(cols), "{dtype}");
            assert_eq!(out.scales.len(), rows * format.groups(cols) * scale_type.bytes());
            assert_eq!(out.offsets.len(), if offsets { rows * format.groups(cols) } else { 0 });
            let layout = Layout { storage: Storage::Buffer, cols, format, scales: Some(scale_type), offsets };
            let [held_words, scales, held_offsets] = on_cpu(layout, &words, &out);
            let (scales, offsets) =
                (Some((&scales[..], scale_type)), offsets.then_some(bytemuck::cast_slice(&held_offsets)));
            let stored_rows = StoredRows { cols, format, words: &held_words, scales, offsets };
            let mut row = vec![0.0; cols];
            for r in 0..rows {
                stored_rows.unpack(r, &mut row);
                let stored = &blocks[r * 2 * dtype.bytes()..];
                let expected = [dequantized(dtype, stored), dequantized(dtype, &stored[dtype.bytes()..])].concat();
                let largest = expected.iter().fold(0.0f32, |m, e| m.max(e.abs()));
                for (e, f) in expected.iter().zip(&row) {
                    assert!((e - f).abs() <= 1e-6 * largest, "{dtype} row {r}: {e} {f}");
                }
            }
            let at = if dtype == Q6_K { 208 } else { 0 } + dtype.bytes();
            blocks[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
            assert_eq!(repack(dtype, &blocks, &mut words, &mut out), Err(dtype.elements()), "{dtype}");
        }
    }
}
