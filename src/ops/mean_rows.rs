//! The mean of the rows of each sequence.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "mean_rows", source: include_str!("../../shaders/mean_rows.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    rows: u32,
    width: u32,
}

/// `x` [batch * rows, width] -> [batch, width].
pub fn mean_rows(r: &mut Recording, x: Tensor, batch: usize) -> Tensor {
    let (rows, width) = (x.rows() / batch, x.width());
    let y = r.scratch_f32(&[batch, width]);
    let params = Params { count: (batch * width) as u32, rows: rows as u32, width: width as u32 };
    let groups = grid((batch * width).div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(x), write(y)], params, groups);
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    let (rows, width) = (p.rows as usize, p.width as usize);
    for (id, y) in y.iter_mut().enumerate() {
        let (b, c) = (id / width, id % width);
        *y = (0..rows).map(|s| x[(b * rows + s) * width + c]).sum::<f32>() / rows as f32;
    }
}
