//! Rows by their index.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "gather_rows", source: include_str!("../../shaders/gather_rows.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    width: u32,
}

/// `from` [_, width], `indices` U32 [n]. Returns [n, width].
pub fn gather_rows(r: &mut Recording, from: Tensor, indices: Tensor) -> Tensor {
    let (n, width) = (indices.len(), from.width());
    let y = r.scratch_f32(&[n, width]);
    let params = Params { count: (n * width) as u32, width: width as u32 };
    let operands = [read(from), read(indices), write(y)];
    let groups = grid((n * width).div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, groups);
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (from, indices, mut y) = (call.f32(0), call.u32(1), call.f32_mut(2));
    let width = p.width as usize;
    for (y, index) in y.chunks_mut(width).zip(&indices[..]) {
        y.copy_from_slice(&from[*index as usize * width..][..width]);
    }
}
