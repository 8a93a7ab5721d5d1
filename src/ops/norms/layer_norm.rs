//! `y = weight * (x - mean) / sqrt(variance + eps) + bias` over each row (Ba, Kiros and Hinton, 2016).

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("norms", "layer_norm", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        eps: f32,
    }
}

/// Normalises each row of `x` [rows, width]; `weight` and `bias` are `[width]`. Returns [rows, width].
pub fn layer_norm(r: &mut Recording, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) -> Tensor {
    let (rows, width) = (x.rows(), x.width());
    assert_eq!(
        (weight.len(), bias.len()),
        (width, width),
        "layer_norm: x {:?}, weight {:?}, bias {:?}",
        x.shape(),
        weight.shape(),
        bias.shape()
    );
    let y = r.scratch_f32(&[rows, width]);
    let params = Params { count: rows as u32, width: width as u32, eps };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(x), read(weight), read(bias), write(y)], params, grid(rows));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, weight, bias, mut y) = (call.f32(0), call.f32(1), call.f32(2), call.f32_mut(3));
    let width = p.width as usize;
    for (y, x) in y.chunks_mut(width).zip(x.chunks(width)) {
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64;
        let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (variance + f64::from(p.eps)).sqrt();
        for (i, y) in y.iter_mut().enumerate() {
            *y = ((f64::from(x[i]) - mean) * scale) as f32 * weight[i] + bias[i];
        }
    }
}

pub(crate) static OP: Op = Op { name: "layer_norm", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let (x, weight, bias) = (e.f32(&[5, 3200]), e.f32(&[3200]), e.f32(&[3200]));
    layer_norm(&mut e.recording, x, weight, bias, 1e-6);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep};

    /// Rows whose mean is `mean` times their spread.
    fn check(rows: usize, width: usize, mean: f32, limit: f64) {
        compare(&format!("{rows} {width} {mean}"), limit, |pool, r, random| {
            let values = random.f32s(rows * width).into_iter().map(|v| v + mean).collect::<Vec<_>>();
            let x = pool.f32(&[rows, width], &values).unwrap();
            let weight = pool.f32(&[width], &random.f32s(width)).unwrap();
            let bias = pool.f32(&[width], &random.f32s(width)).unwrap();
            let y = layer_norm(r, x, weight, bias, 1e-5);
            vec![keep(pool, r, y)]
        });
    }

    #[test]
    fn gpu_equals_reference() {
        for (rows, width) in [(1, 1), (2, 3), (7, 60), (3, 173), (1, 64), (5, 3200)] {
            check(rows, width, 0.0, 1e-12);
        }
    }

    /// The rounding of a mean of 1000 in f32 is 1e-4 of the spread. A variance by mean of squares would be lost.
    #[test]
    fn a_large_mean_does_no_harm() {
        check(3, 331, 1000.0, 1e-7);
    }
}
