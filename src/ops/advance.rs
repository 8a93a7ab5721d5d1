//! After a decode step: one more row is in the cache.

use bytemuck::{Pod, Zeroable};

use super::{read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "advance", source: include_str!("../../shaders/advance.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    capacity: u32,
}

/// Lanes of the one workgroup.
const LANES: u32 = 64;

/// `past` U32 [1] += 1; `positions` U32 [rows] += 1; `slots[row] = table[row, past]`, `table` U32 [rows, capacity].
pub fn advance(r: &mut Recording, table: Tensor, past: Tensor, positions: Tensor, slots: Tensor) {
    let params = Params { rows: positions.len() as u32, capacity: table.width() as u32 };
    let operands = [read(table), write(past), write(positions), write(slots)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, [1, 1, 1]);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (table, mut past) = (call.u32(0), call.u32_mut(1));
    let (mut positions, mut slots) = (call.u32_mut(2), call.u32_mut(3));
    past[0] += 1;
    for row in 0..p.rows as usize {
        positions[row] += 1;
        slots[row] = table[row * p.capacity as usize + past[0].min(p.capacity - 1) as usize];
    }
}
