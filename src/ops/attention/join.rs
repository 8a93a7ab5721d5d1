//! What the workgroups of `attention_step` that share a head's keys have found, made one.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::{LANES, grid, kernel, read, write};

pub(super) static JOIN: Kernel = kernel!("attention", "attention_join", Params, reference);

uniform! {
    struct Params {
        count: u32,
    }
}

/// Joins `found` [count, parts, head_dim + 2] into `out` [count, head_dim].
pub(super) fn join(r: &mut Recording, found: Tensor, out: Tensor, head_dim: usize) {
    let parts = found.shape()[1];
    let count = found.len() / found.width() / parts;
    assert!(found.width() == head_dim + 2 && out.len() == count * head_dim, "attention: {found:?} into {out:?}");
    let constants = [("PARTS", parts as f64), ("HEAD_DIM", head_dim as f64), ("LANES", LANES as f64)];
    r.dispatch(&JOIN, &constants, &[write(out), read(found)], Params { count: count as u32 }, grid(count));
}

fn reference(call: &Call) {
    let (mut out, found) = (call.f32_mut(0), call.f32(1));
    let (parts, head_dim) = (call.constant("PARTS") as usize, call.constant("HEAD_DIM") as usize);
    let width = head_dim + 2;
    for (out, found) in out.chunks_mut(head_dim).zip(found.chunks(parts * width)) {
        let highest = found.chunks(width).map(|part| part[head_dim]).fold(f32::MIN, f32::max);
        let (mut weights, mut sums) = (0.0f64, vec![0.0f64; head_dim]);
        for part in found.chunks(width) {
            let w = f64::from((part[head_dim] - highest).exp());
            weights += w * f64::from(part[head_dim + 1]);
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += w * f64::from(*x));
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum / weights) as f32);
    }
}
