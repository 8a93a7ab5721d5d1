//! log_softmax.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "log_softmax", source: include_str!("../../shaders/log_softmax.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    width: u32,
}

/// `x - log(sum(exp(x)))` over each row.
pub fn log_softmax(r: &mut Recording, x: Tensor) -> Tensor {
    let y = r.scratch_f32(&[x.rows(), x.width()]);
    let params = Params { rows: x.rows() as u32, width: x.width() as u32 };
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(x), write(y)], params, grid(x.rows()));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    let width = p.width as usize;
    for (x, y) in x.chunks(width).zip(y.chunks_mut(width)) {
        let m = x.iter().copied().fold(f32::MIN, f32::max);
        let lse = m + x.iter().map(|v| (v - m).exp()).sum::<f32>().ln();
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x - lse);
    }
}
