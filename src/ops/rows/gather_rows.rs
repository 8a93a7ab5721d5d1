//! Picks rows of a tensor by number.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, grid, kernel, picked_rows, read, write};

static KERNEL: Kernel = kernel!("rows", "gather_rows", Params, reference, picked_rows);

uniform! {
    struct Params {
        count: u32,
        width: u32,
    }
}

/// Row i of the result [n, width] is row `indices[i]` of `from` [_, width], f32 or U32; `indices` is U32 `[n]`. Whoever
/// fills `indices` keeps them below the number of rows.
pub fn gather_rows(r: &mut Recording, from: Tensor, indices: Tensor) -> Tensor {
    assert_eq!(from.dtype.bytes(), 4, "gather_rows: from {:?} of {:?}", from.shape(), from.dtype);
    assert_eq!(indices.dtype, DType::U32, "gather_rows: indices {:?}", indices.shape());
    let y = r.scratch(from.dtype, &[indices.len(), from.width()]);
    let params = Params { count: y.len() as u32, width: y.width() as u32 };
    let constants = [("LANES", LANES as f64)];
    let operands = [read(from), read(indices), write(y)];
    r.dispatch(&KERNEL, &constants, &operands, params, grid(y.len().div_ceil(LANES as usize)));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (from, indices, mut y) = (call.u32(0), call.u32(1), call.u32_mut(2));
    let width = p.width as usize;
    for (y, &index) in y.chunks_mut(width).zip(&indices[..]) {
        y.copy_from_slice(&from[index as usize * width..][..width]);
    }
}

pub(crate) static OP: Op = Op { name: "gather_rows", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(1, Fill::Below(t.tensor(0).rows() as u32));
}

fn examples(e: &mut Examples) {
    let (from, indices) = (e.f32(&[9, 4096]), e.u32(&[5], Fill::Below(9)));
    gather_rows(&mut e.recording, from, indices);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{keep, play_both};

    #[test]
    fn gpu_equals_reference() {
        for (rows, width, n) in [(1, 1, 1), (7, 61, 3), (3, 173, 70), (331, 64, 5), (2, 3200, 1)] {
            let found = play_both(7, |pool, r, random| {
                let from = pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                let mut indices: Vec<u32> = (0..n).map(|_| random.below(rows as u32)).collect();
                indices[n - 1] = rows as u32 - 1;
                let indices = pool.u32(&[n], &indices).unwrap();
                let y = gather_rows(r, from, indices);
                vec![keep(pool, r, y)]
            });
            assert!(found[0].0 == found[0].1, "{rows} {width} {n}");
        }
    }
}
