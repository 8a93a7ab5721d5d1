//! `y = residual + layer_scale * (x W^T + bias)`: the linear layer, for weights of every format.

use crate::device::recording::{Call, Dispatch, Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::device::work::Work;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::linear::stage::{self, StagedRows, stage};
use crate::ops::linear::ways::{Kernels, ProductCall, Way};
use crate::ops::trial::Trial;
use crate::ops::{kernel, read, unpack_row_of, write};
use crate::weights::layout::{BLOCK_ROWS, Format};
use crate::weights::matrix::{Matrix, Part};

static PLAIN: Kernel = kernel!("linear", "linear", Params, reference, work);
static TILE: Kernel = kernel!("linear", "linear_tile", Params, reference, work);
static FEW: Kernel = kernel!("linear", "linear_few", Params, reference, work);
static MANY: Kernel = kernel!("linear", "linear_many", Params, reference, work);

static WAYS: Kernels = Kernels { many: &MANY, few: &FEW, tile: &TILE, plain: Some(&PLAIN) };

uniform! {
    struct Params {
        rows: u32,
        cols: u32,
        x_width: u32,
        outputs: u32,
        first_output: u32,
        y_width: u32,
        first_row: u32,
        row_words: u32,
        group: u32,
        groups: u32,
        epilogue: u32,
    }
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
pub fn linear(r: &mut Recording, x: impl Into<StagedRows>, weight: &Matrix, epilogue: Epilogue) -> Tensor {
    let x = x.into();
    let y = r.scratch_f32(&[x.rows(), weight.rows]);
    linear_into(r, x, weight, epilogue, y);
    y
}

/// As [`linear`], into a tensor that exists.
pub fn linear_into(r: &mut Recording, x: impl Into<StagedRows>, weight: &Matrix, epilogue: Epilogue, y: Tensor) {
    let (x, most) = (x.into(), stage::most_rows(weight.cols));
    let call = ProductCall::new("linear", x.rows(), weight);
    let ways = Way::all(weight, x.rows(), r.maker());
    r.choose(format_args!("{call}"), &ways, |r, way| {
        record(r, x, weight, epilogue, y, most, *way);
    });
}

/// `most` is the number of rows of `x` to stage at a time.
fn record(r: &mut Recording, x: StagedRows, weight: &Matrix, epilogue: Epilogue, y: Tensor, most: usize, way: Way) {
    let rows = x.rows();
    assert_eq!(x.cols(), weight.cols, "linear: x {x:?}, weight [{}, {}]", weight.rows, weight.cols);
    assert_eq!((y.rows(), y.width()), (rows, weight.rows), "linear: y {:?}", y.shape());
    for vector in [epilogue.bias, epilogue.layer_scale].into_iter().flatten() {
        assert_eq!(vector.len(), weight.rows, "linear: a bias or scale of {:?}", vector.shape());
    }
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), y.len(), "linear: residual {:?}", residual.shape());
    }
    let buffer = if x.storage() == Storage::Buffer { x.tensor() } else { r.scratch_f32(&[1]) };
    let product = Product { cols: weight.cols, epilogue, y, buffer };
    let (plain, fast): (Vec<_>, Vec<_>) =
        weight.parts.iter().partition(|part| way.of_part(part, weight.cols) == Way::Plain);
    for part in plain {
        product.record(r, x, 0, part, Way::Plain);
    }
    let Some(first_part) = fast.first() else { return };
    for first in (0..rows).step_by(most) {
        let staged = stage(r, x, first..rows.min(first + most), first_part.words.storage);
        for part in &fast {
            product.record(r, staged, first, part, way);
        }
    }
}

/// What all parts of a matrix share.
struct Product {
    cols: usize,
    epilogue: Epilogue,
    y: Tensor,
    /// A buffer that is not written.
    buffer: Tensor,
}

impl Product {
    /// The outputs of one part for the rows of `x`, into the rows of `y` from `first_row` on.
    fn record(&self, r: &mut Recording, x: StagedRows, first_row: usize, part: &Part, way: Way) {
        let Product { cols, epilogue, y, buffer } = *self;
        let rows = x.rows();
        let bit = |t: Option<Tensor>, bit: u32| if t.is_some() { bit } else { 0 };
        let params = Params {
            rows: rows as u32,
            cols: cols as u32,
            x_width: x.tensor().width() as u32,
            outputs: part.rows as u32,
            first_output: part.first_row as u32,
            y_width: y.width() as u32,
            first_row: first_row as u32,
            row_words: part.format.row_words(cols) as u32,
            group: part.group(cols) as u32,
            groups: part.format.groups(cols) as u32,
            epilogue: bit(epilogue.bias, 1) | bit(epilogue.layer_scale, 2) | bit(epilogue.residual, 4),
        };
        let [words, scales, offsets] = part.tensors().map(read);
        // A vector that is not there is never read: another buffer stands in for it.
        let [bias, layer_scale, residual] =
            [epilogue.bias, epilogue.layer_scale, epilogue.residual].map(|vector| read(vector.unwrap_or(buffer)));
        let operands = [write(y), read(x.tensor()), words, scales, offsets, bias, layer_scale, residual];
        let (kernel, constants, workgroups) = way.dispatch(&WAYS, part, rows, false);
        r.dispatch(kernel, &constants, &operands, params, workgroups);
    }
}

fn work(dispatch: &Dispatch) -> Work {
    let p: Params = dispatch.params();
    product_work(dispatch, [p.rows, p.outputs, p.cols])
}

/// The work of a product of [rows, outputs, columns] that reads the matrix, operands 2 to 4, once for each row of
/// workgroups.
pub(super) fn product_work(dispatch: &Dispatch, shape: [u32; 3]) -> Work {
    let mut words: Vec<Tensor> = Vec::new();
    for (tensor, _) in &dispatch.operands[2..5] {
        if !words.contains(tensor) {
            words.push(*tensor);
        }
    }
    let stored: u64 = words.iter().map(|tensor| tensor.size_bytes() as u64).sum();
    Work {
        multiply_adds: shape.map(u64::from).iter().product(),
        bytes: dispatch.operand_bytes(),
        weight_bytes: stored * u64::from(dispatch.workgroups[1]),
    }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut y, x) = (call.f32_mut(0), call.f32(1));
    let (bias, layer_scale, residual) = (call.f32(5), call.f32(6), call.f32(7));
    let cols = p.cols as usize;
    let mut weights = vec![0.0; cols];
    for output in 0..p.outputs as usize {
        unpack_row_of(call, p.group, output, &mut weights);
        let out = p.first_output as usize + output;
        for row in 0..p.rows as usize {
            let mut value = dot(&x[row * p.x_width as usize..][..cols], &weights);
            let at = (p.first_row as usize + row) * p.y_width as usize + out;
            if p.epilogue & 1 != 0 {
                value += bias[out];
            }
            if p.epilogue & 2 != 0 {
                value *= layer_scale[out];
            }
            if p.epilogue & 4 != 0 {
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

pub(crate) static OP: Op = Op { name: "linear", kernels: &[&PLAIN, &TILE, &FEW, &MANY], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    let rows = t.fewer(1, t.param("rows"), Trial::shown(t.param("cols")));
    let outputs = t.fewer(0, t.param("outputs"), Trial::shown(t.param("row_words")));
    t.set("rows", rows);
    t.set("outputs", outputs);
    t.set("first_row", t.param("first_row").min(1));
    t.keep_rows(1, rows, 1);
    (2..5).for_each(|operand| t.keep_rows(operand, outputs, BLOCK_ROWS));
    t.reshape(0, &[t.param("first_row") + rows, t.param("y_width")]);
    // Operands that are not there have stand-ins.
    let epilogue = t.param("epilogue");
    for (operand, bit) in [(5, 1), (6, 2), (7, 4)] {
        match epilogue & bit {
            0 => t.reshape(operand, &[1]),
            4 => t.reshape(operand, t.tensor(0).shape()),
            _ => {}
        }
    }
    // Behind the columns, rows that are staged have zeros.
    t.fill(1, Fill::Columns(t.param("cols")));
    t.fill_matrix(2);
}

fn examples(e: &mut Examples) {
    let group = Format::Int { bits: 4, group: 16 };
    for storage in [Storage::Buffer, Storage::Pieces] {
        for (scales, offsets) in [(DType::F32, false), (DType::F16, true)] {
            let weight = e.matrix([70, 192], group, scales, offsets, storage);
            let x = e.f32(&[3, 192]);
            linear(&mut e.recording, x, &weight, Epilogue::default());
        }
    }
    // In textures, the matrices of small models and of large ones have kernels of their own; in buffers, few rows have.
    for (storage, [outputs, cols], rows) in [
        (Storage::Buffer, [130, 320], &[1, 5, 9][..]),
        (Storage::Pieces, [70, 192], &[1, 6]),
        (Storage::Pieces, [66, 4096], &[1, 6]),
    ] {
        let (bias, layer_scale) = (Some(e.f32(&[outputs])), Some(e.f32(&[outputs])));
        for weight in e.matrices(storage, [outputs, cols]) {
            for &rows in rows {
                let x = e.f32(&[rows, cols]);
                let residual = Some(e.f32(&[rows, outputs]));
                linear(&mut e.recording, x, &weight, Epilogue { bias, layer_scale, residual });
            }
            // Staged already, where a device lacks the fast kernel.
            if storage != Storage::Buffer {
                let x = e.f32(&[1, cols]);
                let x = stage(&mut e.recording, x.into(), 0..1, storage);
                linear(&mut e.recording, x, &weight, Epilogue::default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tensor::DType;
    use crate::ops::testing::{Shape, compare, keep, random_matrix};
    use crate::weights::layout::Format;

    #[test]
    fn gpu_equals_reference() {
        let formats = [
            (Format::F32, DType::F32),
            (Format::F16, DType::F32),
            (Format::BF16, DType::F32),
            (Format::Int { bits: 4, group: 32 }, DType::F32),
            (Format::Int { bits: 4, group: 64 }, DType::F16),
            (Format::Int { bits: 8, group: 16 }, DType::F32),
            (Format::Int { bits: 4, group: 4096 }, DType::F32),
            (Format::Int { bits: 4, group: 16 }, DType::BF16),
        ];
        let sizes = [
            (1, 1, 1),
            (1, 173, 331),
            (3, 60, 67),
            (7, 330, 96),
            (1, 4096, 5),
            (13, 64, 3),
            (9, 32, 129),
            (3, 1056, 261),
        ];
        let tiles = [(1, 4, 8), (4, 8, 8), (1, 8, 16)];
        let tiles = tiles.map(|(rows, outputs, lanes)| Way::Tile { rows, outputs, lanes });
        let few = [(1, 32), (2, 128), (4, 64)].map(|(outputs, lanes)| Way::Few { outputs, lanes });
        let many = [(32, 4), (64, 8), (88, 4)].map(|(rows, lane_rows)| Way::Many { rows, lane_rows });
        let ways = [&[Way::Plain], &tiles[..], &few, &many].concat();
        for (format, scales) in formats {
            for (rows, cols, outputs) in sizes {
                for (i, &way) in ways.iter().enumerate() {
                    for (all, storage) in [(i % 2 == 0, Storage::Buffer), (i % 2 == 1, Storage::Pieces)] {
                        if !way.is_for(rows, storage) {
                            continue;
                        }
                        let case = format!("{format:?} {rows} {cols} {outputs} {all} {storage:?} {way:?}");
                        let part_rows = if all { 50 } else { outputs };
                        let shape = Shape { rows: outputs, cols, format, scales, offsets: all, part_rows, storage };
                        compare(&case, 1e-11, |pool, r, random| {
                            let x = pool.f32(&[rows, cols], &random.f32s(rows * cols)).unwrap();
                            let weight = random_matrix(pool, random, shape);
                            let mut vector = |n: usize| all.then(|| pool.f32(&[n], &random.f32s(n)).unwrap());
                            let epilogue = Epilogue {
                                bias: vector(outputs),
                                layer_scale: vector(outputs),
                                residual: vector(rows * outputs),
                            };
                            let y = r.scratch_f32(&[rows, outputs]);
                            record(r, x.into(), &weight, epilogue, y, if all { 5 } else { 4096 }, way);
                            vec![keep(pool, r, y)]
                        });
                    }
                }
            }
        }
    }
}
