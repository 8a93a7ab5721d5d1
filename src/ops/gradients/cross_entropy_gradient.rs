//! The gradient of the cross-entropy of rows of logits: `(softmax(logits) - one at the label) * weight`, a weight a row.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::logits::cross_entropy::IGNORED;
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "cross_entropy_gradient", Params, reference);

uniform! {
    struct Params {
        count: u32,
        vocab: u32,
    }
}

/// `logits` [rows, vocab] and `labels` U32 `[rows]`, as [`cross_entropy`](crate::ops::logits::cross_entropy) takes them.
/// `weights` F32 `[rows]` is what the loss multiplies each row's part by: 1 / n for the mean of n rows. Returns [rows, vocab].
pub fn cross_entropy_gradient(r: &mut Recording, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor {
    let (rows, vocab) = (logits.rows(), logits.width());
    assert_eq!((labels.len(), labels.dtype), (rows, DType::U32), "cross_entropy_gradient: {logits:?}, {labels:?}");
    assert_eq!(weights.len(), rows, "cross_entropy_gradient: weights {weights:?}");
    let out = r.scratch_f32(&[rows, vocab]);
    let params = Params { count: rows as u32, vocab: vocab as u32 };
    let operands = [write(out), read(logits), read(labels), read(weights)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(rows));
    out
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut out, logits, labels, weights) = (call.f32_mut(0), call.f32(1), call.u32(2), call.f32(3));
    let vocab = p.vocab as usize;
    let rows = out.chunks_mut(vocab).zip(logits.chunks(vocab)).zip(labels.iter().zip(&weights[..]));
    for ((out, logits), (&label, &weight)) in rows {
        if label == IGNORED {
            out.fill(0.0);
            continue;
        }
        let highest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = logits.iter().map(|v| (f64::from(*v) - highest).exp()).sum();
        for (i, (out, logit)) in out.iter_mut().zip(logits).enumerate() {
            let target = f64::from(u8::from(i == label as usize));
            *out = (f64::from(weight) * ((f64::from(*logit) - highest).exp() / sum - target)) as f32;
        }
    }
}

pub(crate) static OP: Op = Op { name: "cross_entropy_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (logits, labels) = (e.f32(&[5, 49954]), e.u32(&[5], Fill::Below(49954)));
    let weights = e.f32(&[5]);
    cross_entropy_gradient(&mut e.recording, logits, labels, weights);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (rows, vocab, scale) in [(1, 2, 1.0), (3, 61, 10.0), (7, 331, 1.0), (2, 64, 300.0), (1, 49954, 8.0)] {
            compare(&format!("{rows} {vocab} {scale}"), 1e-11, |pool, r, random| {
                let values: Vec<f32> = random.f32s(rows * vocab).into_iter().map(|v| v * scale).collect();
                let logits = pool.f32(&[rows, vocab], &values).unwrap();
                let labels = (0..rows).map(|row| if row == 1 { IGNORED } else { random.below(vocab as u32) });
                let labels = pool.u32(&[rows], &labels.collect::<Vec<_>>()).unwrap();
                let weights = pool.f32(&[rows], &random.f32s(rows)).unwrap();
                let out = cross_entropy_gradient(r, logits, labels, weights);
                vec![keep(pool, r, out)]
            });
        }
    }

    /// Each row's gradient sums to 0, and is negative at the label alone.
    #[test]
    fn rows_point_from_the_label() {
        let device = crate::device::Device::cpu();
        let mut pool = device.pool();
        let mut r = Recording::new();
        let logits = pool.f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, -1.0, 0.5]).unwrap();
        let labels = pool.u32(&[2], &[2, 0]).unwrap();
        let weights = pool.f32(&[2], &[0.5; 2]).unwrap();
        let out = cross_entropy_gradient(&mut r, logits, labels, weights);
        let out = pool.keep(&mut r, out).unwrap();
        device.play(&r).unwrap();
        let out = pollster::block_on(device.read_f32(out)).unwrap();
        for (row, label) in out.chunks(3).zip([2, 0]) {
            assert!(row.iter().sum::<f32>().abs() < 1e-6, "{row:?}");
            assert!(row.iter().enumerate().all(|(i, v)| (*v < 0.0) == (i == label)), "{row:?}");
        }
    }
}
