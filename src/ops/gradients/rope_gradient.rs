//! The gradient of RoPE: a turn by the opposite angle, `(dx1, dx2) = (dy1 cos + dy2 sin, dy2 cos - dy1 sin)`.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::attention::heads::Heads;
use crate::ops::cache::rope::RopeTables;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::{kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "rope_gradient", Params, reference);

const LANES: u32 = 256;

uniform! {
    struct Params {
        rows: u32,
        heads: u32,
        kv_heads: u32,
        half: u32,
    }
}

/// `dq` [rows, heads * head_dim] and `dkv` [rows, 2 * kv_heads * head_dim], of keys and then of values, at `positions` U32
/// `[rows]`. Returns the gradient of what `rope_into_cache` took: [rows, (heads + 2 kv_heads) * head_dim].
pub fn rope_gradient(
    r: &mut Recording,
    dq: Tensor,
    dkv: Tensor,
    heads: Heads,
    tables: &RopeTables,
    positions: Tensor,
) -> Tensor {
    let rows = dq.rows();
    assert_eq!(dq.width(), heads.q_width(), "rope_gradient: dq {:?}, {heads:?}", dq.shape());
    assert_eq!((dkv.rows(), dkv.width()), (rows, 2 * heads.kv_width()), "rope_gradient: dkv {:?}", dkv.shape());
    assert_eq!((positions.len(), positions.dtype), (rows, DType::U32), "rope_gradient: positions {positions:?}");
    let half = heads.head_dim / 2;
    let dqkv = r.scratch_f32(&[rows, heads.q_width() + 2 * heads.kv_width()]);
    let params =
        Params { rows: rows as u32, heads: heads.heads as u32, kv_heads: heads.kv_heads as u32, half: half as u32 };
    let operands = [write(dqkv), read(dq), read(dkv), read(tables.cos), read(tables.sin), read(positions)];
    let units = (heads.heads + 2 * heads.kv_heads) * half;
    let workgroups = [(units as u32).div_ceil(LANES), rows as u32, 1];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, workgroups);
    dqkv
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut dqkv, dq, dkv) = (call.f32_mut(0), call.f32(1), call.f32(2));
    let (cos, sin, positions) = (call.f32(3), call.f32(4), call.u32(5));
    let (heads, kv_heads, half) = (p.heads as usize, p.kv_heads as usize, p.half as usize);
    let head_dim = 2 * half;
    for row in 0..p.rows as usize {
        for head in 0..heads + 2 * kv_heads {
            let dy = match head.checked_sub(heads) {
                None => &dq[(row * heads + head) * head_dim..][..head_dim],
                Some(head) => &dkv[(row * 2 * kv_heads + head) * head_dim..][..head_dim],
            };
            let dx = &mut dqkv[(row * (heads + 2 * kv_heads) + head) * head_dim..][..head_dim];
            if head >= heads + kv_heads {
                dx.copy_from_slice(dy);
                continue;
            }
            for i in 0..half {
                let (c, s) = (cos[positions[row] as usize * half + i], sin[positions[row] as usize * half + i]);
                dx[i] = dy[i] * c + dy[i + half] * s;
                dx[i + half] = dy[i + half] * c - dy[i] * s;
            }
        }
    }
}

pub(crate) static OP: Op = Op { name: "rope_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let heads = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
    let (dq, dkv) = (e.f32(&[5, heads.q_width()]), e.f32(&[5, 2 * heads.kv_width()]));
    let tables = RopeTables { cos: e.f32(&[40, 32]), sin: e.f32(&[40, 32]) };
    let positions = e.u32(&[5], Fill::Below(40));
    rope_gradient(&mut e.recording, dq, dkv, heads, &tables, positions);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (rows, heads, kv_heads, head_dim) in [(1, 1, 1, 2), (5, 3, 3, 20), (7, 6, 2, 36), (3, 4, 1, 128)] {
            compare(&format!("{rows} {heads} {kv_heads} {head_dim}"), 1e-13, |pool, r, random| {
                let heads = Heads { heads, kv_heads, head_dim };
                let mut wide = |width: usize| pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                let (dq, dkv) = (wide(heads.q_width()), wide(2 * heads.kv_width()));
                let tables = RopeTables::new(pool, 10000.0, head_dim, 200).unwrap();
                let positions: Vec<u32> = (0..rows).map(|_| random.below(200)).collect();
                let positions = pool.u32(&[rows], &positions).unwrap();
                let dqkv = rope_gradient(r, dq, dkv, heads, &tables, positions);
                vec![keep(pool, r, dqkv)]
            });
        }
    }
}
