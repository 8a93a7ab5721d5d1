//! Rows of f32 made whole 16-byte pieces of a matrix, in a buffer or a texture: what the fast linear kernel reads.

use std::ops::Range;

use crate::device::kernel::{Kernel, uniform};
use crate::device::recording::{Call, Recording};
use crate::device::tensor::{DType, MAX_TEXELS, Storage, Tensor};
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("linear", "stage", Params, reference);

/// Elements of the longest piece of a matrix.
const PIECE: usize = 32;

uniform! {
    struct Params {
        first: u32,
        cols: u32,
        width: u32,
        count: u32,
    }
}

/// Elements of a staged row of `cols` columns.
pub fn width(cols: usize) -> usize {
    cols.next_multiple_of(PIECE)
}

/// Rows of `cols` elements that can be staged at a time.
pub fn most_rows(cols: usize) -> usize {
    MAX_TEXELS / (width(cols) / 4)
}

/// Scratch for `rows` rows of `cols` elements as [`stage`] makes them; in a buffer, without what is behind the columns.
pub fn staged(r: &mut Recording, storage: Storage, rows: usize, cols: usize) -> Tensor {
    match storage {
        Storage::Buffer => r.scratch_f32(&[rows, cols]),
        _ => r.scratch_in(storage, DType::F32, &[rows, width(cols)]),
    }
}

/// Rows `rows` of `x` [_, cols] in `storage`: [rows, cols rounded up to 32], zeros behind the last column. Records
/// nothing where `x` is that already. Textures cannot be read back: the tests of the linear layer, which reads them,
/// cover this op.
pub fn stage(r: &mut Recording, x: Tensor, rows: Range<usize>, storage: Storage) -> Tensor {
    assert!(x.dtype == DType::F32 && rows.end <= x.rows(), "stage: rows {rows:?} of {x:?}");
    let cols = x.width();
    let width = width(cols);
    if (x.storage, rows.len(), width) == (storage, x.rows(), cols) {
        return x;
    }
    let out = r.scratch_in(storage, DType::F32, &[rows.len(), width]);
    let words = match storage {
        Storage::Buffer => 1,
        _ => 4,
    };
    let count = rows.len() * width / words;
    let params =
        Params { first: (rows.start * cols) as u32, cols: cols as u32, width: width as u32, count: count as u32 };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(x), write(out)], params, grid(count.div_ceil(LANES as usize)));
    out
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut out) = (call.u32(0), call.u32_mut(1));
    let cols = p.cols as usize;
    let rows = x[p.first as usize..].chunks(cols);
    let size = call.tensor(1).len();
    for (out, x) in out[..size].chunks_mut(p.width as usize).zip(rows) {
        out[..cols].copy_from_slice(x);
        out[cols..].fill(0);
    }
}

pub(crate) static OP: Op = Op { name: "stage", kernels: &[&KERNEL], examples };

fn examples(e: &mut Examples) {
    let x = e.f32(&[5, 173]);
    for storage in [Storage::Buffer, Storage::Pieces] {
        stage(&mut e.recording, x, 1..4, storage);
    }
}
