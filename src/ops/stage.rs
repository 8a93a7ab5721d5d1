//! Rows of f32 in a texture, for kernels that read them often.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::{DType, MAX_TEXELS, Storage, Tensor};

static KERNEL: Kernel =
    Kernel { name: "stage", source: include_str!("../../shaders/stage.wgsl"), reference, subgroups: false };

/// Columns are padded with zeros to a multiple of this: the elements of the longest 16-byte piece of a matrix.
const PIECE: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    first: u32,
    cols: u32,
    row_texels: u32,
    texels: u32,
}

/// Rows that fit into one texture.
pub fn most_rows(cols: usize) -> usize {
    MAX_TEXELS / (cols.next_multiple_of(PIECE) / 4)
}

/// Copies rows `rows` of `x` [_, cols] into a texture: [rows, cols rounded up to 32], zeros behind the last column.
/// Textures cannot be read back: the tests of the linear layer, which reads it, cover this op.
pub fn stage(r: &mut Recording, x: Tensor, rows: std::ops::Range<usize>) -> Tensor {
    assert!(x.dtype == DType::F32 && rows.end <= x.rows(), "stage: rows {rows:?} of {x:?}");
    let cols = x.width();
    let width = cols.next_multiple_of(PIECE);
    let out = r.scratch_in(Storage::Pieces, DType::F32, &[rows.len(), width]);
    let texels = rows.len() * width / 4;
    let params = Params {
        first: (rows.start * cols) as u32,
        cols: cols as u32,
        row_texels: (width / 4) as u32,
        texels: texels as u32,
    };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(x), write(out)], params, grid(texels.div_ceil(LANES as usize)));
    out
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut out) = (call.u32(0), call.u32_mut(1));
    let cols = p.cols as usize;
    let rows = x[p.first as usize..].chunks(cols);
    for (out, x) in out[..p.texels as usize * 4].chunks_mut(p.row_texels as usize * 4).zip(rows) {
        out[..cols].copy_from_slice(x);
        out[cols..].fill(0);
    }
}
