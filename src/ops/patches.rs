//! Pictures cut into patches.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "patches", source: include_str!("../../shaders/patches.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    height: u32,
    width: u32,
    patch: u32,
}

/// `pixel_values` [batch, 3, height, width] -> [batch * patches, 3 * patch * patch], columns as a convolution's weight.
pub fn patches(r: &mut Recording, pixel_values: Tensor, patch: usize) -> Tensor {
    let &[batch, 3, height, width] = pixel_values.shape() else { panic!("patches: {:?}", pixel_values.shape()) };
    let rows = batch * (height / patch) * (width / patch);
    let y = r.scratch_f32(&[rows, 3 * patch * patch]);
    let params = Params { count: y.len() as u32, height: height as u32, width: width as u32, patch: patch as u32 };
    let groups = grid(y.len().div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(pixel_values), write(y)], params, groups);
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    let (h, w, s) = (p.height as usize, p.width as usize, p.patch as usize);
    let (gh, gw) = (h / s, w / s);
    for (id, y) in y.iter_mut().enumerate() {
        let (column, row) = (id % (3 * s * s), id / (3 * s * s));
        let (c, py, px) = (column / (s * s), column / s % s, column % s);
        let (b, gy, gx) = (row / (gh * gw), row / gw % gh, row % gw);
        *y = x[((b * 3 + c) * h + gy * s + py) * w + gx * s + px];
    }
}
