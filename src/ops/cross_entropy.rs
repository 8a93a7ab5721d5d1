//! cross entropy.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel = Kernel {
    name: "cross_entropy",
    source: include_str!("../../shaders/cross_entropy.wgsl"),
    reference,
    subgroups: false,
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    width: u32,
}

/// `-log_softmax(logits)[label]` a row.
pub fn cross_entropy(r: &mut Recording, logits: Tensor, labels: Tensor) -> Tensor {
    let y = r.scratch_f32(&[logits.rows()]);
    let params = Params { rows: logits.rows() as u32, width: logits.width() as u32 };
    let operands = [read(logits), read(labels), write(y)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(logits.rows()));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, labels, mut y) = (call.f32(0), call.u32(1), call.f32_mut(2));
    for ((x, label), y) in x.chunks(p.width as usize).zip(&labels[..]).zip(y.iter_mut()) {
        let m = x.iter().copied().fold(f32::MIN, f32::max);
        let lse = m + x.iter().map(|v| (v - m).exp()).sum::<f32>().ln();
        *y = if *label == u32::MAX { 0.0 } else { lse - x[*label as usize] };
    }
}
