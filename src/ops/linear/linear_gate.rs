//! `y = silu(x Wg^T) * (x Wu^T)`: the first half of LLaMA's MLP (Shazeer, 2020), for weights of every format.

use crate::device::Maker;
use crate::device::recording::{Call, Dispatch, Kernel, Recording};
use crate::device::tensor::Storage;
use crate::device::wgsl::uniform;
use crate::device::work::Work;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::linear::layer::{Epilogue, dot, linear, product_work};
use crate::ops::linear::silu_gate::{silu, silu_gate};
use crate::ops::linear::stage::{StagedRows, most_rows, stage, staged_width, storage_for};
use crate::ops::linear::ways::{Kernels, ProductCall, Way};
use crate::ops::trial::Trial;
use crate::ops::{kernel, read, unpack_row_of, write};
use crate::weights::layout::BLOCK_ROWS;
use crate::weights::matrix::Matrix;

static TILE: Kernel = kernel!("linear", "linear_gate_tile", Params, reference, work);
static FEW: Kernel = kernel!("linear", "linear_gate_few", Params, reference, work);
static MANY: Kernel = kernel!("linear", "linear_gate_many", Params, reference, work);

static WAYS: Kernels = Kernels { many: &MANY, few: &FEW, tile: &TILE, plain: None };

uniform! {
    struct Params {
        rows: u32,
        cols: u32,
        x_width: u32,
        outputs: u32,
        row_words: u32,
        group: u32,
        groups: u32,
    }
}

/// `gate_up` [2 * inner, cols] has the rows of `Wg` above those of `Wu`; `x` is [rows, cols]. Returns [rows, inner], as
/// the linear layer of `consumer` takes it. One dispatch, or one per part of the matrix and another where it has several,
/// groups that are not whole pieces, or few elements.
pub fn linear_gate(r: &mut Recording, x: impl Into<StagedRows>, gate_up: &Matrix, consumer: &Matrix) -> StagedRows {
    let x = x.into();
    linear_gate_in(r, x, gate_up, storage_for(consumer, x.rows()))
}

fn linear_gate_in(r: &mut Recording, x: StagedRows, gate_up: &Matrix, storage: Storage) -> StagedRows {
    let call = ProductCall::new("linear_gate", x.rows(), gate_up);
    let ways = ways(gate_up, x.rows(), storage, r.maker());
    r.choose(format_args!("{call}"), &ways, |r, way| record(r, x, gate_up, storage, *way))
}

/// Fast first; the last, none: two kernels one after the other.
fn ways(gate_up: &Matrix, rows: usize, storage: Storage, maker: Maker) -> Vec<Option<Way>> {
    let one_dispatch = match &gate_up.parts[..] {
        [part] => part.words.storage == storage && rows <= most_rows(gate_up.cols),
        _ => false,
    };
    let both_halves = |way: &Way| match way {
        Way::Many { .. } => true,
        Way::Few { outputs, .. } => *outputs > 1,
        // A shader that makes two fours takes long to compile: small matrices do not win that back.
        Way::Tile { outputs, .. } => *outputs == 8,
        Way::Plain => false,
    };
    let all = if one_dispatch { Way::all(gate_up, rows, maker) } else { Vec::new() };
    all.into_iter().filter(both_halves).map(Some).chain([None]).collect()
}

fn record(r: &mut Recording, x: StagedRows, gate_up: &Matrix, storage: Storage, way: Option<Way>) -> StagedRows {
    let Some(way) = way else {
        let gate_up = linear(r, x, gate_up, Epilogue::default());
        return silu_gate(r, gate_up, storage);
    };
    let (part, cols) = (&gate_up.parts[0], gate_up.cols);
    assert!(gate_up.rows.is_multiple_of(2), "linear_gate: weight [{}, {cols}]", gate_up.rows);
    let (rows, inner) = (x.rows(), gate_up.rows / 2);
    let x = stage(r, x, 0..rows, storage);
    assert_eq!(x.cols(), cols, "linear_gate: x {x:?}, weight [{}, {cols}]", gate_up.rows);
    let y = StagedRows::scratch(r, storage, rows, inner);
    let params = Params {
        rows: rows as u32,
        cols: cols as u32,
        x_width: x.tensor().width() as u32,
        outputs: gate_up.rows as u32,
        row_words: part.format.row_words(cols) as u32,
        group: part.group(cols) as u32,
        groups: part.format.groups(cols) as u32,
    };
    let [words, scales, offsets] = part.tensors().map(read);
    let (kernel, constants, workgroups) = way.dispatch(&WAYS, part, rows, true);
    r.dispatch(kernel, &constants, &[write(y.tensor()), read(x.tensor()), words, scales, offsets], params, workgroups);
    y
}

fn work(dispatch: &Dispatch) -> Work {
    let p: Params = dispatch.params();
    product_work(dispatch, [p.rows, p.outputs, p.cols])
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut y, x) = (call.f32_mut(0), call.f32(1));
    let (inner, cols, width) = (p.outputs as usize / 2, p.cols as usize, call.tensor(0).width());
    let (mut gate, mut up) = (vec![0.0; cols], vec![0.0; cols]);
    y.fill(0.0);
    for output in 0..inner {
        unpack_row_of(call, p.group, output, &mut gate);
        unpack_row_of(call, p.group, inner + output, &mut up);
        for row in 0..p.rows as usize {
            let x = &x[row * p.x_width as usize..][..cols];
            y[row * width + output] = silu(dot(x, &gate)) * dot(x, &up);
        }
    }
}

pub(crate) static OP: Op = Op { name: "linear_gate", kernels: &[&TILE, &FEW, &MANY], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    let inner = t.param("outputs") / 2;
    let rows = t.fewer(1, t.param("rows"), Trial::shown(t.param("cols")));
    let left = t.fewer(0, inner, Trial::shown(2 * t.param("row_words")));
    t.set("rows", rows);
    t.set("outputs", 2 * left);
    let y = t.tensor(0);
    t.reshape(0, &[rows, if y.storage == Storage::Buffer { left } else { staged_width(left) }]);
    t.keep_rows(1, rows, 1);
    (2..5).for_each(|operand| t.keep_rows(operand, 2 * left, BLOCK_ROWS));
    // Behind the columns, rows that are staged have zeros.
    t.fill(1, Fill::Columns(t.param("cols")));
    t.fill_matrix(2);
}

fn examples(e: &mut Examples) {
    // As in the examples of linear; in textures, the matrices of small models go to other kernels.
    for (storage, shape, rows) in
        [(Storage::Buffer, [140, 320], &[1, 5, 9][..]), (Storage::Pieces, [66, 4096], &[1, 6])]
    {
        for gate_up in e.matrices(storage, shape) {
            for &rows in rows {
                let x = e.f32(&[rows, gate_up.cols]);
                linear_gate_in(&mut e.recording, x.into(), &gate_up, storage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tensor::DType;
    use crate::ops::testing::{Shape, compare, keep, random_matrix, seen};
    use crate::weights::layout::Format;

    /// The kernel that makes both products, in tiles that the tests of `linear` try too, and two kernels one after the other.
    #[test]
    fn gpu_equals_reference() {
        let formats = [
            (Format::BF16, DType::F32, false),
            (Format::Int { bits: 4, group: 32 }, DType::F16, true),
            (Format::Int { bits: 8, group: 16 }, DType::F32, false),
        ];
        let sizes = [(1, 1, 1), (1, 173, 331), (3, 60, 67), (7, 330, 96), (13, 64, 3), (4, 1056, 130)];
        let tiles = [(1, 8), (4, 8)].map(|(rows, lanes)| Way::Tile { rows, outputs: 8, lanes });
        let few = [(2, 32), (4, 64)].map(|(outputs, lanes)| Way::Few { outputs, lanes });
        let many = [(32, 4), (64, 8), (88, 4)].map(|(rows, lane_rows)| Way::Many { rows, lane_rows });
        let ways: Vec<_> = [&tiles[..], &few, &many].concat().into_iter().map(Some).chain([None]).collect();
        for (format, scales, offsets) in formats {
            for (rows, cols, inner) in sizes {
                for &way in &ways {
                    for storage in [Storage::Buffer, Storage::Pieces] {
                        if !way.is_none_or(|way| way.is_for(rows, storage)) {
                            continue;
                        }
                        let case = format!("{format:?} {rows} {cols} {inner} {storage:?} {way:?}");
                        let part_rows = if way.is_some() { 2 * inner } else { inner };
                        let shape = Shape { rows: 2 * inner, cols, format, scales, offsets, part_rows, storage };
                        compare(&case, 1e-11, |pool, r, random| {
                            let x = pool.f32(&[rows, cols], &random.f32s(rows * cols)).unwrap();
                            let weight = random_matrix(pool, random, shape);
                            let y = record(r, x.into(), &weight, storage, way);
                            assert_eq!((y.storage(), y.rows(), y.cols()), (storage, rows, inner));
                            let y = if storage == Storage::Buffer { y.tensor() } else { seen(pool, r, random, y) };
                            vec![keep(pool, r, y)]
                        });
                    }
                }
            }
        }
    }
}
