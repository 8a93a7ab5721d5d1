//! `-log_softmax(logits)[label]` of each row: the terms of the loss of `LlamaForCausalLM`.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("logits", "cross_entropy", Params, reference);

/// The label of a row that has none.
pub const IGNORED: u32 = u32::MAX;

uniform! {
    struct Params {
        count: u32,
        vocab: u32,
    }
}

/// `logits` is [rows, vocab]; `labels` is U32 `[rows]`, the label of each row itself (shift them first). Whoever fills
/// `labels` keeps them below vocab, or [`IGNORED`]. Returns `[rows]`, in nats, 0 where the label is ignored.
pub fn cross_entropy(r: &mut Recording, logits: Tensor, labels: Tensor) -> Tensor {
    let (rows, vocab) = (logits.rows(), logits.width());
    assert_eq!(
        (labels.len(), labels.dtype),
        (rows, DType::U32),
        "cross_entropy: logits {:?}, labels {:?}",
        logits.shape(),
        labels.shape()
    );
    let y = r.scratch_f32(&[rows]);
    let params = Params { count: rows as u32, vocab: vocab as u32 };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(logits), read(labels), write(y)], params, grid(rows));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (logits, labels, mut y) = (call.f32(0), call.u32(1), call.f32_mut(2));
    for ((y, logits), &label) in y.iter_mut().zip(logits.chunks(p.vocab as usize)).zip(&labels[..]) {
        if label == IGNORED {
            *y = 0.0;
            continue;
        }
        let highest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = logits.iter().map(|v| (f64::from(*v) - highest).exp()).sum();
        *y = (sum.ln() + (highest - f64::from(logits[label as usize]))) as f32;
    }
}

pub(crate) static OP: Op = Op { name: "cross_entropy", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(1, Fill::Below(t.param("vocab") as u32));
}

fn examples(e: &mut Examples) {
    let (logits, labels) = (e.f32(&[5, 49954]), e.u32(&[5], Fill::Below(49954)));
    cross_entropy(&mut e.recording, logits, labels);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep, play_both};

    #[test]
    fn gpu_equals_reference() {
        for (rows, vocab, scale) in
            [(1, 2, 1.0), (3, 61, 10.0), (7, 331, 1.0), (2, 64, 300.0), (5, 997, 3.0), (1, 49954, 8.0)]
        {
            compare(&format!("{rows} {vocab} {scale}"), 1e-12, |pool, r, random| {
                let values = random.f32s(rows * vocab).into_iter().map(|v| scale * v).collect::<Vec<_>>();
                let logits = pool.f32(&[rows, vocab], &values).unwrap();
                let labels: Vec<u32> = (0..rows).map(|_| random.below(vocab as u32)).collect();
                let labels = pool.u32(&[rows], &labels).unwrap();
                let y = cross_entropy(r, logits, labels);
                vec![keep(pool, r, y)]
            });
        }
    }

    #[test]
    fn rows_without_a_label_give_zero_and_large_logits_stay_finite() {
        let found = play_both(7, |pool, r, _| {
            let logits = pool.f32(&[4, 2], &[1e30, 1e30, 5.0, 6.0, -1e4, 1e4, -2e4, -2e4]).unwrap();
            let labels = pool.u32(&[4], &[1, IGNORED, 0, 0]).unwrap();
            let y = cross_entropy(r, logits, labels);
            vec![keep(pool, r, y)]
        });
        let expected = [std::f32::consts::LN_2, 0.0, 2e4, std::f32::consts::LN_2];
        for words in [&found[0].0, &found[0].1] {
            let y: &[f32] = bytemuck::cast_slice(words);
            assert!(y.iter().zip(expected).all(|(y, e)| (y - e).abs() <= 1e-6 * e.max(1.0)), "{y:?}");
        }
    }
}
