//! `y = x - max - ln(sum(exp(x - max)))` over each row.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{grid, kernel, read, write};

static KERNEL: Kernel = kernel!("logits", "log_softmax", Params, reference);

/// Lanes of a workgroup, one a row.
const LANES: u32 = 256;

uniform! {
    struct Params {
        rows: u32,
        vocab: u32,
    }
}

/// Natural logarithms of the probabilities that the rows of `logits` F32 [rows, vocab] stand for, of the same shape.
/// A number that is not finite comes out as it went in, so that whoever chooses from the row can tell.
pub fn log_softmax(r: &mut Recording, logits: Tensor) -> Tensor {
    assert!(!logits.is_empty(), "log_softmax: {:?}", logits.shape());
    let (rows, vocab) = (logits.rows(), logits.width());
    let y = r.scratch_f32(&[rows, vocab]);
    let params = Params { rows: rows as u32, vocab: vocab as u32 };
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(logits), write(y)], params, grid(rows));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    let vocab = p.vocab as usize;
    for (x, y) in x.chunks(vocab).zip(y.chunks_mut(vocab)) {
        let finite = || x.iter().copied().filter(|v| v.is_finite());
        let most = finite().fold(f32::MIN, f32::max);
        let log_sum = finite().map(|v| f64::from((v - most).exp())).sum::<f64>().ln() as f32;
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x.is_finite() { (x - most - log_sum).max(f32::MIN) } else { x });
    }
}

pub(crate) static OP: Op = Op { name: "log_softmax", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let logits = e.f32(&[5, 49954]);
    log_softmax(&mut e.recording, logits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep, play_both};

    #[test]
    fn gpu_equals_reference() {
        for (rows, vocab, scale) in [(1, 7, 1.0), (3, 331, 30.0), (2, 256, 1e4), (5, 49954, 8.0)] {
            compare(&format!("{rows} {vocab} {scale}"), 1e-12, |pool, r, random| {
                let logits: Vec<f32> = random.f32s(rows * vocab).iter().map(|v| v * scale).collect();
                let logits = pool.f32(&[rows, vocab], &logits).unwrap();
                let y = log_softmax(r, logits);
                vec![keep(pool, r, y)]
            });
        }
    }

    #[test]
    fn extremes() {
        let play = |logits: &[f32]| {
            let outputs = play_both(1, |pool, r, _| {
                let logits = pool.f32(&[1, logits.len()], logits).unwrap();
                let y = log_softmax(r, logits);
                vec![keep(pool, r, y)]
            });
            let values = |words: &[u32]| bytemuck::cast_slice::<u32, f32>(words).to_vec();
            [values(&outputs[0].0), values(&outputs[0].1)]
        };
        for found in play(&[f32::MIN, 3e38, f32::MIN, 3e38]) {
            assert_eq!((found[0], found[2]), (f32::MIN, f32::MIN));
            assert!((found[1] + 2f32.ln()).abs() < 1e-6 && found[1] == found[3], "{found:?}");
        }
        for found in play(&[f32::MIN; 3]) {
            assert!(found.iter().all(|v| (v + 3f32.ln()).abs() < 1e-6), "{found:?}");
        }
        for found in play(&[5.0]) {
            assert!(found[0].abs() < 1e-6, "{found:?}");
        }
        for found in play(&[0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0]) {
            assert!(found[1].is_nan() && found[2] == f32::INFINITY && found[3] == f32::NEG_INFINITY, "{found:?}");
            assert!((found[0] + 2f32.ln()).abs() < 1e-6 && found[0] == found[4], "{found:?}");
        }
    }
}
