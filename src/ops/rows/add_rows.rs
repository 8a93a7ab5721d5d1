//! `x[rows] += delta`: a residual that goes to some rows of each sequence only.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, Rows, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("rows", "add_rows", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        rows: u32,
        stride: u32,
        first: u32,
    }
}

/// Adds `delta` [rows.count(), width] to the rows of `x` [_, width] that `rows` names, in place.
pub fn add_rows(r: &mut Recording, x: Tensor, rows: Rows, delta: Tensor) {
    let width = x.width();
    assert_eq!(
        (delta.rows(), delta.width()),
        (rows.count(), width),
        "add_rows: delta {:?} to {rows:?} of {:?}",
        delta.shape(),
        x.shape()
    );
    assert!(
        (rows.batch - 1) * rows.stride + rows.first + rows.rows <= x.rows(),
        "add_rows: {rows:?} of {:?}",
        x.shape()
    );
    assert_ne!(x.id, delta.id, "add_rows: a tensor cannot be added to itself");
    let params = Params {
        count: delta.len() as u32,
        width: width as u32,
        rows: rows.rows as u32,
        stride: rows.stride as u32,
        first: rows.first as u32,
    };
    let constants = [("LANES", LANES as f64)];
    let workgroups = grid(delta.len().div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &constants, &[read(delta), write(x)], params, workgroups);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (delta, mut x) = (call.f32(0), call.f32_mut(1));
    let width = p.width as usize;
    for (row, delta) in delta.chunks(width).enumerate() {
        let start = Rows::index(p.rows, p.stride, p.first, row) * width;
        x[start..start + width].iter_mut().zip(delta).for_each(|(x, d)| *x += d);
    }
}

pub(crate) static OP: Op = Op { name: "add_rows", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let (x, delta) = (e.f32(&[2 * 9, 4096]), e.f32(&[2 * 3, 4096]));
    add_rows(&mut e.recording, x, Rows { batch: 2, rows: 3, stride: 9, first: 1 }, delta);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    #[test]
    fn gpu_equals_reference() {
        for (batch, rows, stride, first, width) in
            [(1, 1, 1, 0, 1), (2, 3, 5, 1, 60), (3, 7, 7, 0, 173), (1, 2, 9, 7, 64), (2, 1, 9, 8, 331)]
        {
            let found = play_both(7, |pool, r, random| {
                let x = pool.f32(&[batch * stride, width], &random.f32s(batch * stride * width)).unwrap();
                let delta = pool.f32(&[batch * rows, width], &random.f32s(batch * rows * width)).unwrap();
                add_rows(r, x, Rows { batch, rows, stride, first }, delta);
                vec![x]
            });
            assert!(found[0].0 == found[0].1, "{batch} {rows} {stride} {first} {width}");
        }
    }
}
