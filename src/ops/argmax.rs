//! The index of the largest logit of each row.

use bytemuck::{Pod, Zeroable};

use super::{grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "argmax", source: include_str!("../../shaders/argmax.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    width: u32,
}

/// Lanes of a workgroup, one a row.
const LANES: u32 = 256;

/// `logits` F32 [rows, vocab] -> `out` U32 [rows]: the lowest index among equals, u32::MAX where a row holds NaN or
/// infinity.
pub fn argmax(r: &mut Recording, logits: Tensor, out: Tensor) {
    assert_eq!(out.len(), logits.rows(), "argmax: {:?}", out.shape());
    let params = Params { rows: logits.rows() as u32, width: logits.width() as u32 };
    let operands = [read(logits), write(out)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(logits.rows()));
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut out) = (call.f32(0), call.u32_mut(1));
    for (row, out) in x.chunks(p.width as usize).zip(out.iter_mut()) {
        let best = row.iter().enumerate().fold((0, f32::MIN), |b, (i, v)| if *v > b.1 { (i, *v) } else { b });
        *out = if row.iter().all(|v| v.is_finite()) { best.0 as u32 } else { u32::MAX };
    }
}
