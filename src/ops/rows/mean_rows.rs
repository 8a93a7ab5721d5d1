//! The mean over the rows of each sequence.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("rows", "mean_rows", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        rows: u32,
    }
}

/// `x` is [batch * rows, width]. Returns [batch, width].
pub fn mean_rows(r: &mut Recording, x: Tensor, batch: usize) -> Tensor {
    assert!(x.rows().is_multiple_of(batch), "mean_rows: {batch} sequences of {:?}", x.shape());
    let y = r.scratch_f32(&[batch, x.width()]);
    let params = Params { count: y.len() as u32, width: x.width() as u32, rows: (x.rows() / batch) as u32 };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(x), write(y)], params, grid(y.len().div_ceil(LANES as usize)));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    let (width, rows) = (p.width as usize, p.rows as usize);
    for (y, x) in y.chunks_mut(width).zip(x.chunks(rows * width)) {
        for (column, y) in y.iter_mut().enumerate() {
            let sum: f64 = x.iter().skip(column).step_by(width).map(|v| f64::from(*v)).sum();
            *y = (sum / rows as f64) as f32;
        }
    }
}

pub(crate) static OP: Op = Op { name: "mean_rows", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let x = e.f32(&[2 * 96, 4096]);
    mean_rows(&mut e.recording, x, 2);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (batch, rows, width) in [(1, 1, 1), (2, 3, 61), (3, 257, 64), (1, 7, 331), (5, 96, 2)] {
            compare(&format!("{batch} {rows} {width}"), 1e-12, |pool, r, random| {
                let x = pool.f32(&[batch * rows, width], &random.f32s(batch * rows * width)).unwrap();
                let y = mean_rows(r, x, batch);
                vec![keep(pool, r, y)]
            });
        }
    }
}
