//! The gradient of `silu(gate) * up`, with `t = sigmoid(gate)`: `dgate = dy up t (1 + gate (1 - t))`, `dup = dy gate t`.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "silu_gate_gradient", Params, reference);

uniform! {
    struct Params {
        count: u32,
        inner: u32,
    }
}

/// `gate_up` is [rows, 2 * inner], `dy` [rows, inner]. Returns the gradient of `gate_up`.
pub fn silu_gate_gradient(r: &mut Recording, gate_up: Tensor, dy: Tensor) -> Tensor {
    let inner = dy.width();
    assert_eq!((gate_up.rows(), gate_up.width()), (dy.rows(), 2 * inner), "silu_gate_gradient: {gate_up:?}, {dy:?}");
    let out = r.scratch_f32(gate_up.shape());
    let params = Params { count: dy.len() as u32, inner: inner as u32 };
    let workgroups = grid(dy.len().div_ceil(LANES as usize));
    let operands = [write(out), read(gate_up), read(dy)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, workgroups);
    out
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut out, gate_up, dy) = (call.f32_mut(0), call.f32(1), call.f32(2));
    let inner = p.inner as usize;
    for ((out, gate_up), dy) in out.chunks_mut(2 * inner).zip(gate_up.chunks(2 * inner)).zip(dy.chunks(inner)) {
        for i in 0..inner {
            let [gate, up, dy] = [gate_up[i], gate_up[inner + i], dy[i]].map(f64::from);
            let t = 1.0 / (1.0 + (-gate).exp());
            out[i] = (dy * up * t * (1.0 + gate * (1.0 - t))) as f32;
            out[inner + i] = (dy * gate * t) as f32;
        }
    }
}

pub(crate) static OP: Op = Op { name: "silu_gate_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (gate_up, dy) = (e.f32(&[5, 2 * 11008]), e.f32(&[5, 11008]));
    silu_gate_gradient(&mut e.recording, gate_up, dy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tensor::Storage;
    use crate::ops::gradients::differences::agree;
    use crate::ops::linear::silu_gate::silu_gate;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (rows, inner, size) in [(1, 1, 1.0), (3, 61, 8.0), (7, 331, 200.0)] {
            compare(&format!("{rows} {inner} {size}"), 1e-12, |pool, r, random| {
                let values: Vec<f32> = random.f32s(rows * 2 * inner).into_iter().map(|v| v * size).collect();
                let gate_up = pool.f32(&[rows, 2 * inner], &values).unwrap();
                let dy = pool.f32(&[rows, inner], &random.f32s(rows * inner)).unwrap();
                let out = silu_gate_gradient(r, gate_up, dy);
                vec![keep(pool, r, out)]
            });
        }
    }

    #[test]
    fn is_the_derivative() {
        agree(
            "silu_gate",
            &[(&[3, 22], 2.0)],
            |r, inputs| silu_gate(r, inputs[0], Storage::Buffer).tensor(),
            |r, inputs, dy| vec![silu_gate_gradient(r, inputs[0], dy)],
        );
    }
}
