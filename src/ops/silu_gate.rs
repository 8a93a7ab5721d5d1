//! `silu(gate) * up` (Shazeer, 2020).

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

/// `gate_up` [rows, 2 * inner] holds gate, then up. Returns [rows, inner].
pub fn silu_gate(r: &mut Recording, gate_up: Tensor) -> Tensor {
    let (rows, inner) = (gate_up.rows(), gate_up.width() / 2);
    assert!(gate_up.width() % 2 == 0, "silu_gate: {:?}", gate_up.shape());
    let y = r.scratch_f32(&[rows, inner]);
    let params = Params { count: (rows * inner) as u32, inner: inner as u32 };
    let groups = grid((rows * inner).div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(gate_up), write(y)], params, groups);
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    let inner = p.inner as usize;
    for (row, y) in y.chunks_mut(inner).enumerate() {
        let (gate, up) = x[row * 2 * inner..][..2 * inner].split_at(inner);
        y.iter_mut().zip(gate).zip(up).for_each(|((y, g), u)| *y = g / (1.0 + (-g).exp()) * u);
    }
}
