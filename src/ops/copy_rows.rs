//! Copies rows, over and over where there are more places than rows.

use bytemuck::{Pod, Zeroable};

use super::{LANES, Rows, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "copy_rows", source: include_str!("../../shaders/copy_rows.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    width: u32,
    from_count: u32,
    from_rows: u32,
    from_stride: u32,
    from_first: u32,
    to_rows: u32,
    to_stride: u32,
    to_first: u32,
}

/// Row `i` of `to_rows` = row `i % from_rows.count()` of `from_rows`; both tensors have as many columns.
pub fn copy_rows(r: &mut Recording, from: Tensor, from_rows: Rows, to: Tensor, to_rows: Rows) {
    let width = from.width();
    assert_eq!(to.width(), width, "copy_rows: {:?} to {:?}", from.shape(), to.shape());
    let count = to_rows.count() * width;
    let params = Params {
        count: count as u32,
        width: width as u32,
        from_count: from_rows.count() as u32,
        from_rows: from_rows.rows as u32,
        from_stride: from_rows.stride as u32,
        from_first: from_rows.first as u32,
        to_rows: to_rows.rows as u32,
        to_stride: to_rows.stride as u32,
        to_first: to_rows.first as u32,
    };
    let groups = grid(count.div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(from), write(to)], params, groups);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (from, mut to) = (call.f32(0), call.f32_mut(1));
    let width = p.width as usize;
    for row in 0..p.count as usize / width {
        let source = Rows::index(p.from_rows, p.from_stride, p.from_first, row % p.from_count as usize) * width;
        let target = Rows::index(p.to_rows, p.to_stride, p.to_first, row) * width;
        to[target..target + width].copy_from_slice(&from[source..source + width]);
    }
}
