//! `y = silu(gate) * up`, `silu(g) = g / (1 + exp(-g))`: the middle of LLaMA's MLP (Shazeer, 2020).

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "silu_gate", source: include_str!("../../shaders/silu_gate.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    inner: u32,
}

/// `gate_up` is [rows, 2 * inner], each row the gate and then the up projection. Returns [rows, inner].
pub fn silu_gate(r: &mut Recording, gate_up: Tensor) -> Tensor {
    assert!(gate_up.width().is_multiple_of(2), "silu_gate: gate_up {:?}", gate_up.shape());
    let inner = gate_up.width() / 2;
    let y = r.scratch_f32(&[gate_up.rows(), inner]);
    let params = Params { count: y.len() as u32, inner: inner as u32 };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(gate_up), write(y)], params, grid(y.len().div_ceil(LANES as usize)));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (gate_up, mut y) = (call.f32(0), call.f32_mut(1));
    let inner = p.inner as usize;
    for (y, gate_up) in y.chunks_mut(inner).zip(gate_up.chunks(2 * inner)) {
        let (gate, up) = gate_up.split_at(inner);
        y.iter_mut().zip(gate).zip(up).for_each(|((y, g), u)| *y = g / (1.0 + (-g).exp()) * u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep, play_both};

    #[test]
    fn gpu_equals_reference() {
        for (rows, inner) in [(1, 1), (3, 61), (1, 64), (7, 331), (2, 2750)] {
            compare(&format!("{rows} {inner}"), 1e-12, |pool, r, random| {
                let values = random.f32s(rows * 2 * inner).into_iter().map(|v| 8.0 * v).collect::<Vec<_>>();
                let gate_up = pool.f32(&[rows, 2 * inner], &values).unwrap();
                let y = silu_gate(r, gate_up);
                vec![keep(pool, r, y)]
            });
        }
    }

    #[test]
    fn large_gates_stay_finite() {
        let gates = [-1e30f32, -1e4, -100.0, -89.0, -0.0, 89.0, 100.0, 1e4, 1e30];
        let found = play_both(1, |pool, r, _| {
            let values = [&gates[..], &[1.0; 9]].concat();
            let gate_up = pool.f32(&[1, 18], &values).unwrap();
            let y = silu_gate(r, gate_up);
            vec![keep(pool, r, y)]
        });
        for words in [&found[0].0, &found[0].1] {
            for (gate, y) in gates.iter().zip(bytemuck::cast_slice::<u32, f32>(words)) {
                assert!((y - gate.max(0.0)).abs() <= 1e-6 * gate.max(1.0), "silu({gate}) is {y}");
            }
        }
    }
}
