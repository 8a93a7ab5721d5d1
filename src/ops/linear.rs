//! `y = residual + layer_scale * (x W^T + bias)`: the linear layer, for weights of every format.

use bytemuck::{Pod, Zeroable};

use super::{LANES, read, write};
use crate::matrix::{Format, Matrix, dtype_code, unpack_row};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::{DType, Tensor};

static PLAIN: Kernel =
    Kernel { name: "linear", source: include_str!("../../shaders/linear.wgsl"), reference, subgroups: false };

static TILE: Kernel =
    Kernel { name: "linear_tile", source: include_str!("../../shaders/linear_tile.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    outputs: u32,
    first_output: u32,
    y_width: u32,
    row_words: u32,
    group: u32,
    groups: u32,
}

/// What is done to the product before it is written.
#[derive(Clone, Copy, Default, Debug)]
pub struct Epilogue {
    /// `[outputs]`, added to the product.
    pub bias: Option<Tensor>,
    /// `[outputs]`, multiplied in after the bias (InternViT's LayerScale).
    pub layer_scale: Option<Tensor>,
    /// [rows, outputs], added last.
    pub residual: Option<Tensor>,
}

impl Epilogue {
    pub fn bias(bias: Tensor) -> Epilogue {
        Epilogue { bias: Some(bias), ..Default::default() }
    }

    pub fn residual(residual: Tensor) -> Epilogue {
        Epilogue { residual: Some(residual), ..Default::default() }
    }
}

/// `x` [rows, cols] times the transpose of `weight` [outputs, cols]. Returns [rows, outputs].
pub fn linear(r: &mut Recording, x: Tensor, weight: &Matrix, epilogue: Epilogue) -> Tensor {
    let y = r.scratch_f32(&[x.rows(), weight.rows]);
    linear_into(r, x, weight, epilogue, y);
    y
}

/// As [`linear`], into a tensor that exists.
pub fn linear_into(r: &mut Recording, x: Tensor, weight: &Matrix, epilogue: Epilogue, y: Tensor) {
    record(r, x, weight, epilogue, y, Kind::Fast);
}

/// Which kernel to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Plain,
    /// Where the weight's groups are whole 16-byte pieces; else the plain one.
    Fast,
}

fn record(r: &mut Recording, x: Tensor, weight: &Matrix, epilogue: Epilogue, y: Tensor, kind: Kind) {
    let rows = x.rows();
    assert_eq!(x.width(), weight.cols, "linear: x {:?}, weight [{}, {}]", x.shape(), weight.rows, weight.cols);
    assert_eq!((y.rows(), y.width()), (rows, weight.rows), "linear: y {:?}", y.shape());
    for vector in [epilogue.bias, epilogue.layer_scale].into_iter().flatten() {
        assert_eq!(vector.len(), weight.rows, "linear: a bias or scale of {:?}", vector.shape());
    }
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), y.len(), "linear: residual {:?}", residual.shape());
    }
    for part in &weight.parts {
        let (group, scale_type) = match part.format {
            Format::Int { group, .. } => (group, part.scales.expect("integers have scales").dtype),
            _ => (1, DType::F32),
        };
        let flag = |t: Option<Tensor>| f64::from(u8::from(t.is_some()));
        let constants = [
            ("FORMAT", part.format.code()),
            ("SCALES", dtype_code(scale_type)),
            ("OFFSETS", flag(part.offsets)),
            ("BIAS", flag(epilogue.bias)),
            ("LAYER_SCALE", flag(epilogue.layer_scale)),
            ("RESIDUAL", flag(epilogue.residual)),
            ("LANES", LANES as f64),
        ];
        let params = Params {
            rows: rows as u32,
            cols: weight.cols as u32,
            outputs: part.rows as u32,
            first_output: part.first_row as u32,
            y_width: weight.rows as u32,
            row_words: part.format.row_words(weight.cols) as u32,
            group: group as u32,
            groups: part.format.groups(weight.cols) as u32,
        };
        // An operand that is not there is never read: any tensor stands in for it.
        let operands = [
            read(x),
            read(part.words),
            read(part.scales.unwrap_or(x)),
            read(part.offsets.unwrap_or(x)),
            read(epilogue.bias.unwrap_or(x)),
            read(epilogue.layer_scale.unwrap_or(x)),
            read(epilogue.residual.unwrap_or(x)),
            write(y),
        ];
        let groups_x = (part.rows as u32).div_ceil(LANES);
        let whole_pieces = match part.format {
            Format::Int { bits, group } => group.is_multiple_of(128 / bits as usize) || group >= weight.cols,
            _ => true,
        };
        if !whole_pieces || kind == Kind::Plain {
            r.dispatch(&PLAIN, &constants, &operands, params, [groups_x, rows as u32, 1]);
            continue;
        }
        let tile = match rows {
            1 => 1,
            2..=4 => 4,
            _ => 8,
        };
        let per_word = 32 / part.format.bits();
        let constants = [&constants[..], &[("ROWS", tile as f64), ("PER_WORD", per_word as f64)]].concat();
        let groups_x = (part.rows as u32).div_ceil(4 * LANES);
        r.dispatch(&TILE, &constants, &operands, params, [groups_x, rows.div_ceil(tile) as u32, 1]);
    }
}

fn format_of(call: &Call, p: &Params) -> Format {
    match call.constant("FORMAT") {
        0 => Format::F32,
        1 => Format::F16,
        2 => Format::BF16,
        bits => Format::Int { bits, group: p.group as usize },
    }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, words, scales, offsets) = (call.f32(0), call.u32(1), call.u32(2), call.f32(3));
    let (bias, layer_scale, residual, mut y) = (call.f32(4), call.f32(5), call.f32(6), call.f32_mut(7));
    let format = format_of(call, &p);
    let scales =
        (!matches!(format, Format::F32 | Format::F16 | Format::BF16)).then(|| (&scales[..], call.tensor(2).dtype));
    let offsets = (call.constant("OFFSETS") == 1).then_some(&offsets[..]);
    let cols = p.cols as usize;
    let mut weights = vec![0.0; cols];
    for output in 0..p.outputs as usize {
        unpack_row(format, cols, output, &words, scales, offsets, &mut weights);
        let out = p.first_output as usize + output;
        for row in 0..p.rows as usize {
            let mut value = dot(&x[row * cols..][..cols], &weights);
            let at = row * p.y_width as usize + out;
            if call.constant("BIAS") == 1 {
                value += bias[out];
            }
            if call.constant("LAYER_SCALE") == 1 {
                value *= layer_scale[out];
            }
            if call.constant("RESIDUAL") == 1 {
                value += residual[at];
            }
            y[at] = value;
        }
    }
}

/// Sixteen running sums, so that the compiler can use vector instructions and rounding errors stay small.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Pool;
    use crate::matrix::Part;
    use crate::ops::testing::{Random, compare, keep};

    /// A matrix of random words in any format, cut into parts of at most `part_rows` rows.
    pub(crate) fn random_matrix(
        pool: &mut Pool,
        random: &mut Random,
        rows: usize,
        cols: usize,
        format: Format,
        offsets: bool,
        part_rows: usize,
    ) -> Matrix {
        let mut parts = Vec::new();
        for first_row in (0..rows).step_by(part_rows) {
            let rows = part_rows.min(rows - first_row);
            if let Format::Int { .. } = format {
                let (row_words, groups) = (format.row_words(cols), format.groups(cols));
                let words: Vec<u32> = (0..rows * row_words).map(|_| random.next_u32()).collect();
                let words = pool.u32(&[rows, row_words], &words).unwrap();
                let scales = pool.f32(&[rows, groups], &random.f32s(rows * groups)).unwrap();
                let offsets = offsets.then(|| pool.f32(&[rows, groups], &random.f32s(rows * groups)).unwrap());
                parts.push(Part { first_row, rows, format, words, scales: Some(scales), offsets });
            } else {
                let one = Matrix::from_f32(pool, rows, cols, &random.f32s(rows * cols), format).unwrap();
                parts.push(Part { first_row, ..one.parts[0] });
            }
        }
        Matrix { rows, cols, parts }
    }

    #[test]
    fn gpu_equals_reference() {
        let formats = [
            Format::F32,
            Format::F16,
            Format::BF16,
            Format::Int { bits: 4, group: 32 },
            Format::Int { bits: 8, group: 16 },
            Format::Int { bits: 4, group: 4096 },
        ];
        for format in formats {
            for (rows, cols, outputs) in
                [(1, 1, 1), (1, 173, 331), (3, 60, 67), (7, 330, 96), (1, 4096, 5), (13, 64, 3), (9, 32, 129)]
            {
                for (all, kind) in [(false, Kind::Plain), (true, Kind::Plain), (false, Kind::Fast), (true, Kind::Fast)]
                {
                    compare(&format!("{format:?} {rows} {cols} {outputs} {all} {kind:?}"), 1e-11, |pool, r, random| {
                        let x = pool.f32(&[rows, cols], &random.f32s(rows * cols)).unwrap();
                        let part_rows = if all { 50 } else { outputs };
                        let weight = random_matrix(pool, random, outputs, cols, format, all, part_rows);
                        let mut vector = |n: usize| all.then(|| pool.f32(&[n], &random.f32s(n)).unwrap());
                        let epilogue = Epilogue {
                            bias: vector(outputs),
                            layer_scale: vector(outputs),
                            residual: vector(rows * outputs),
                        };
                        let y = r.scratch_f32(&[rows, outputs]);
                        record(r, x, &weight, epilogue, y, kind);
                        vec![keep(pool, r, y)]
                    });
                }
            }
        }
    }
}
