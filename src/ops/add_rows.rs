//! `x[rows] += delta`.

use bytemuck::{Pod, Zeroable};

use super::{LANES, Rows, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "add_rows", source: include_str!("../../shaders/add_rows.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    width: u32,
    rows: u32,
    stride: u32,
    first: u32,
}

/// Adds `delta` [rows.count(), width] to the rows of `x` [_, width] that `rows` names, in place.
pub fn add_rows(r: &mut Recording, x: Tensor, rows: Rows, delta: Tensor) {
    let width = x.width();
    assert_eq!((delta.rows(), delta.width()), (rows.count(), width), "add_rows: {:?}", delta.shape());
    let count = rows.count() * width;
    let params = Params {
        count: count as u32,
        width: width as u32,
        rows: rows.rows as u32,
        stride: rows.stride as u32,
        first: rows.first as u32,
    };
    let groups = grid(count.div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[write(x), read(delta)], params, groups);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut x, delta) = (call.f32_mut(0), call.f32(1));
    let width = p.width as usize;
    for (row, delta) in delta.chunks(width).enumerate() {
        let at = Rows::index(p.rows, p.stride, p.first, row) * width;
        x[at..at + width].iter_mut().zip(delta).for_each(|(x, d)| *x += d);
    }
}
