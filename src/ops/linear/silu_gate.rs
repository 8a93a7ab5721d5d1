//! `y = silu(gate) * up`, `silu(g) = g / (1 + exp(-g))`: the middle of LLaMA's MLP (Shazeer, 2020).

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::linear::stage::StagedRows;
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("linear", "silu_gate", Params, reference);

uniform! {
    struct Params {
        rows: u32,
        inner: u32,
    }
}

/// `gate_up` is [rows, 2 * inner], each row the gate and then the up projection. Returns [rows, inner] in `storage`.
pub(crate) fn silu_gate(r: &mut Recording, gate_up: Tensor, storage: Storage) -> StagedRows {
    assert!(gate_up.width().is_multiple_of(2), "silu_gate: gate_up {:?}", gate_up.shape());
    let inner = gate_up.width() / 2;
    let y = StagedRows::scratch(r, storage, gate_up.rows(), inner);
    let params = Params { rows: y.rows() as u32, inner: inner as u32 };
    let constants = [("LANES", LANES as f64)];
    let fours = y.rows() * y.tensor().width().div_ceil(4);
    r.dispatch(&KERNEL, &constants, &[write(y.tensor()), read(gate_up)], params, grid(fours.div_ceil(LANES as usize)));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut y, gate_up) = (call.f32_mut(0), call.f32(1));
    let inner = p.inner as usize;
    for (y, gate_up) in y.chunks_mut(call.tensor(0).width()).zip(gate_up.chunks(2 * inner)) {
        let (y, behind) = y.split_at_mut(inner);
        behind.fill(0.0);
        let (gate, up) = gate_up.split_at(inner);
        y.iter_mut().zip(gate).zip(up).for_each(|((y, g), u)| *y = silu(*g) * u);
    }
}

pub(super) fn silu(g: f32) -> f32 {
    g / (1.0 + (-g).exp())
}

pub(crate) static OP: Op = Op { name: "silu_gate", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let gate_up = e.f32(&[5, 2 * 11008]);
    for storage in [Storage::Buffer, Storage::Pieces] {
        silu_gate(&mut e.recording, gate_up, storage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep, play_both, seen};

    #[test]
    fn gpu_equals_reference() {
        for (rows, inner) in [(1, 1), (3, 61), (1, 64), (7, 331), (2, 2750)] {
            compare(&format!("{rows} {inner}"), 1e-12, |pool, r, random| {
                let values = random.f32s(rows * 2 * inner).into_iter().map(|v| 8.0 * v).collect::<Vec<_>>();
                let gate_up = pool.f32(&[rows, 2 * inner], &values).unwrap();
                let y = silu_gate(r, gate_up, Storage::Buffer).tensor();
                let staged = silu_gate(r, gate_up, Storage::Pieces);
                let staged = seen(pool, r, random, staged);
                vec![keep(pool, r, y), keep(pool, r, staged)]
            });
        }
    }

    #[test]
    fn large_gates_stay_finite() {
        let gates = [-1e30f32, -1e4, -100.0, -89.0, -0.0, 89.0, 100.0, 1e4, 1e30];
        let found = play_both(1, |pool, r, _| {
            let values = [&gates[..], &[1.0; 9]].concat();
            let gate_up = pool.f32(&[1, 18], &values).unwrap();
            let y = silu_gate(r, gate_up, Storage::Buffer).tensor();
            vec![keep(pool, r, y)]
        });
        for words in [&found[0].0, &found[0].1] {
            for (gate, y) in gates.iter().zip(bytemuck::cast_slice::<u32, f32>(words)) {
                assert!((y - gate.max(0.0)).abs() <= 1e-6 * gate.max(1.0), "silu({gate}) is {y}");
            }
        }
    }
}
