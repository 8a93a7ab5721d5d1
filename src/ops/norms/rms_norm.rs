//! `y = weight * x * rsqrt(mean(x^2) + eps)` over each row (Zhang and Sennrich, 2019).

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::linear::stage::{StagedRows, storage_for};
use crate::ops::{LANES, Rows, grid, kernel, read, write};
use crate::weights::matrix::Matrix;

static KERNEL: Kernel = kernel!("norms", "rms_norm", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        rows: u32,
        stride: u32,
        first: u32,
        x_width: u32,
        x_column: u32,
        eps: f32,
    }
}

/// Normalises `width = weight.len()` columns of `x` [_, x_width], from column `x_column` on, in the rows that `rows`
/// names. Returns [rows.count(), width].
pub fn rms_norm(r: &mut Recording, x: Tensor, rows: Rows, x_column: usize, weight: Tensor, eps: f32) -> Tensor {
    rms_norm_in(r, x, rows, x_column, weight, eps, Storage::Buffer).tensor()
}

/// As [`rms_norm`], of all columns, as the linear layer of `consumer` takes them.
pub fn rms_norm_for(
    r: &mut Recording,
    x: Tensor,
    rows: Rows,
    weight: Tensor,
    eps: f32,
    consumer: &Matrix,
) -> StagedRows {
    rms_norm_in(r, x, rows, 0, weight, eps, storage_for(consumer, rows.count()))
}

fn rms_norm_in(
    r: &mut Recording,
    x: Tensor,
    rows: Rows,
    x_column: usize,
    weight: Tensor,
    eps: f32,
    storage: Storage,
) -> StagedRows {
    let width = weight.len();
    assert!(x_column + width <= x.width(), "rms_norm: columns {x_column}+{width} of {:?}", x.shape());
    assert!(
        (rows.batch - 1) * rows.stride + rows.first + rows.rows <= x.rows(),
        "rms_norm: {rows:?} of {:?}",
        x.shape()
    );
    let y = StagedRows::scratch(r, storage, rows.count(), width);
    let params = Params {
        count: rows.count() as u32,
        width: width as u32,
        rows: rows.rows as u32,
        stride: rows.stride as u32,
        first: rows.first as u32,
        x_width: x.width() as u32,
        x_column: x_column as u32,
        eps,
    };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[write(y.tensor()), read(x), read(weight)], params, grid(rows.count()));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut y, x, weight) = (call.f32_mut(0), call.f32(1), call.f32(2));
    let width = p.width as usize;
    for (row, y) in y.chunks_mut(call.tensor(0).width()).take(p.count as usize).enumerate() {
        let (y, behind) = y.split_at_mut(width);
        behind.fill(0.0);
        let start = Rows::index(p.rows, p.stride, p.first, row) * p.x_width as usize + p.x_column as usize;
        let x = &x[start..start + width];
        let mean = x.iter().map(|v| v * v).sum::<f32>() / width as f32;
        let scale = 1.0 / (mean + p.eps).sqrt();
        y.iter_mut().zip(x).zip(&weight[..]).for_each(|((y, x), w)| *y = w * (x * scale));
    }
}

pub(crate) static OP: Op = Op { name: "rms_norm", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let (x, weight) = (e.f32(&[2 * 5, 3 * 3200]), e.f32(&[3200]));
    let rows = Rows { batch: 2, rows: 3, stride: 5, first: 1 };
    for storage in [Storage::Buffer, Storage::Pieces] {
        rms_norm_in(&mut e.recording, x, rows, 3200, weight, 1e-6, storage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep, seen};

    #[test]
    fn gpu_equals_reference() {
        for (batch, rows, stride, first, width, column) in
            [(1, 1, 1, 0, 1, 0), (2, 3, 5, 1, 60, 7), (3, 7, 7, 0, 173, 0), (1, 2, 2, 0, 64, 64), (2, 1, 9, 8, 3200, 0)]
        {
            compare(&format!("{batch} {rows} {stride} {first} {width} {column}"), 1e-12, |pool, r, random| {
                let x_width = column + width + 3;
                let x = pool.f32(&[batch * stride, x_width], &random.f32s(batch * stride * x_width)).unwrap();
                let weight = pool.f32(&[width], &random.f32s(width)).unwrap();
                let rows = Rows { batch, rows, stride, first };
                let y = rms_norm(r, x, rows, column, weight, 1e-6);
                let staged = rms_norm_in(r, x, rows, column, weight, 1e-6, Storage::Pieces);
                let staged = seen(pool, r, random, staged);
                vec![keep(pool, r, y), keep(pool, r, staged)]
            });
        }
    }
}
