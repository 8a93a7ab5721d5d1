//! `y = residual + layer_scale * (x W^T + bias)`: the linear layer, for weights of every format.

use std::fmt;

use crate::device::recording::{Call, Dispatch, Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::device::work::Work;
use crate::ops::examples::{Examples, Op};
use crate::ops::linear::stage::{self, StagedRows, stage};
use crate::ops::{LANES, kernel, read, unpack_row_of, write};
use crate::weights::layout::Format;
use crate::weights::matrix::{Matrix, Part};

/// Any groups.
static PLAIN: Kernel = kernel!("linear", "linear", Params, reference, work);
/// Groups of whole 16-byte pieces.
static TILE: Kernel = kernel!("linear", "linear_tile", Params, reference, work);

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
    r.choose(format_args!("{call}"), &Way::all(weight), |r, way| match way {
        Way::Tile => record(r, x, weight, epilogue, y, most, |part| Tile::choose(part, x.rows(), weight.cols)),
        Way::Plain => record(r, x, weight, epilogue, y, most, |_| None),
    });
}

/// The kernel of a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// [`TILE`], for the parts whose groups are whole pieces.
    Tile,
    /// [`PLAIN`].
    Plain,
}

impl Way {
    /// Fast first.
    fn all(weight: &Matrix) -> Vec<Way> {
        let tile = weight.parts.iter().any(|part| part.format.has_whole_pieces(weight.cols));
        tile.then_some(Way::Tile).into_iter().chain([Way::Plain]).collect()
    }
}

/// What tells products apart for [`Recording::choose`].
pub(super) struct ProductCall {
    op: &'static str,
    /// Of the first part: parts are stored alike, but for rare mixtures.
    format: Format,
    storage: Storage,
    rows: usize,
    outputs: usize,
    cols: usize,
}

impl ProductCall {
    pub(super) fn new(op: &'static str, rows: usize, weight: &Matrix) -> ProductCall {
        let part = &weight.parts[0];
        let (format, storage) = (part.format, part.words.storage);
        ProductCall { op, format, storage, rows, outputs: weight.rows, cols: weight.cols }
    }
}

impl fmt::Display for ProductCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProductCall { op, format, storage, rows, outputs, cols } = self;
        // As many rows as differ little in what is fast for them.
        let (least, most) = match rows {
            1 => (1, 1),
            2..=8 => (2, 8),
            _ => (rows.next_power_of_two() / 2 + 1, rows.next_power_of_two()),
        };
        write!(f, "{op} {format:?} in {storage:?}, {least} to {most} rows, {outputs} x {cols}")
    }
}

/// The shape of the fast kernel: what a team of invocations makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// 1 or 4.
    pub rows: usize,
    /// 4 or 8.
    pub outputs: usize,
    /// Invocations that share the columns; a power of two.
    pub team: usize,
    /// Invocations of a workgroup.
    pub lanes: usize,
}

impl Tile {
    /// None where a group of columns is not whole 16-byte pieces: the plain kernel does that.
    pub fn choose(part: &Part, rows: usize, cols: usize) -> Option<Tile> {
        if !part.format.has_whole_pieces(cols) {
            return None;
        }
        let tile_rows = if rows == 1 { 1 } else { 4 };
        Some(match part.words.storage {
            Storage::Buffer if rows <= 8 => {
                // A GPU is full with thousands of invocations: all columns of few outputs are shared by many.
                let pieces = part.format.row_pieces(cols);
                Tile { rows: tile_rows, outputs: 4, team: pieces.next_power_of_two().min(64), lanes: 64 }
            }
            Storage::Buffer => Tile { rows: tile_rows, outputs: 8, team: 1, lanes: 64 },
            // With 8 outputs, x is loaded half as often, and the shader takes twice as long to compile, which matrices
            // of a small model do not win back.
            _ if part.rows * cols < 1 << 18 => Tile { rows: tile_rows, outputs: 4, team: 1, lanes: 8 },
            _ => Tile { rows: tile_rows, outputs: 8, team: 1, lanes: 8 },
        })
    }

    pub fn constants(self, part: &Part) -> [(&'static str, f64); 5] {
        [
            ("ROWS", self.rows as f64),
            ("OUTPUTS", self.outputs as f64),
            ("TEAM", self.team as f64),
            ("LANES", self.lanes as f64),
            ("PER_WORD", 32.0 / part.format.bits() as f64),
        ]
    }
}

/// `most` is the number of rows of `x` to stage at a time; `shape` tells the tile of each part, none: the plain kernel.
fn record(
    r: &mut Recording,
    x: StagedRows,
    weight: &Matrix,
    epilogue: Epilogue,
    y: Tensor,
    most: usize,
    shape: impl Fn(&Part) -> Option<Tile>,
) {
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
    let (fast, plain): (Vec<_>, Vec<_>) =
        weight.parts.iter().map(|part| (part, shape(part))).partition(|(_, tile)| tile.is_some());
    for (part, _) in plain {
        product.record(r, x, 0, part, None);
    }
    let Some((first_part, _)) = fast.first() else { return };
    for first in (0..rows).step_by(most) {
        let staged = stage(r, x, first..rows.min(first + most), first_part.words.storage);
        for (part, tile) in &fast {
            product.record(r, staged, first, part, *tile);
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
    fn record(&self, r: &mut Recording, x: StagedRows, first_row: usize, part: &Part, tile: Option<Tile>) {
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
        let mut constants = part.constants().to_vec();
        let Some(tile) = tile else {
            constants.push(("LANES", LANES as f64));
            let groups = [(part.rows as u32).div_ceil(LANES), rows as u32, 1];
            return r.dispatch(&PLAIN, &constants, &operands, params, groups);
        };
        constants.extend(tile.constants(part));
        let outputs = tile.outputs * tile.lanes / tile.team;
        let groups = [part.rows.div_ceil(outputs) as u32, rows.div_ceil(tile.rows) as u32, 1];
        r.dispatch(&TILE, &constants, &operands, params, groups);
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
        if !words.iter().any(|seen| seen.id == tensor.id) {
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

pub(crate) static OP: Op = Op { name: "linear", kernels: &[&PLAIN, &TILE], examples };

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
        (Storage::Buffer, [10, 4096], &[1, 6, 9][..]),
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
        let tiles = [(1, 4, 1, 8), (4, 8, 1, 8), (1, 8, 16, 64), (4, 4, 64, 64), (4, 8, 2, 16)];
        let tiles = tiles.map(|(rows, outputs, team, lanes)| Some(Tile { rows, outputs, team, lanes }));
        for (format, scales) in formats {
            for (rows, cols, outputs) in sizes {
                for (i, tile) in [None].into_iter().chain(tiles).enumerate() {
                    for (all, storage) in [(i % 2 == 0, Storage::Buffer), (i % 2 == 1, Storage::Pieces)] {
                        let case = format!("{format:?} {rows} {cols} {outputs} {all} {storage:?} {tile:?}");
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
                            let shape = |part: &Part| tile.filter(|_| part.format.has_whole_pieces(cols));
                            record(r, x.into(), &weight, epilogue, y, if all { 5 } else { 4096 }, shape);
                            vec![keep(pool, r, y)]
                        });
                    }
                }
            }
        }
    }
}
