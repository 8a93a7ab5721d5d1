//! The index of the largest number of each row: greedy choice of the next token.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::{grid, kernel, read, write};

static KERNEL: Kernel = kernel!("logits", "argmax", Params, reference);

/// Lanes of a workgroup, which goes through a whole row. Software adapters take long to compile many lanes (SwiftShader
/// 0.2 s for 256), so small vocabularies have few.
fn lanes(vocab: usize) -> u32 {
    if vocab <= 4096 { 64 } else { 256 }
}

uniform! {
    struct Params {
        batch: u32,
        vocab: u32,
    }
}

/// Writes to `out` U32 `[batch]` the lowest index of the largest of each row of `logits` F32 [batch, vocab], or
/// `u32::MAX` where the row holds a NaN or an infinity.
pub fn argmax(r: &mut Recording, logits: Tensor, out: Tensor) {
    assert!(logits.dtype == DType::F32 && out.dtype == DType::U32, "argmax: logits {logits:?}, out {out:?}");
    assert_eq!(logits.rows(), out.len(), "argmax: logits {:?}, out {:?}", logits.shape(), out.shape());
    let params = Params { batch: logits.rows() as u32, vocab: logits.width() as u32 };
    let constants = [("LANES", lanes(logits.width()) as f64)];
    r.dispatch(&KERNEL, &constants, &[read(logits), write(out)], params, grid(logits.rows()));
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (logits, mut out) = (call.f32(0), call.u32_mut(1));
    for (out, row) in out.iter_mut().zip(logits.chunks(p.vocab as usize)) {
        let mut best = 0;
        for (i, value) in row.iter().enumerate() {
            if *value > row[best] {
                best = i;
            }
        }
        *out = if row.iter().all(|v| v.is_finite()) { best as u32 } else { u32::MAX };
    }
}

pub(crate) static OP: Op = Op { name: "argmax", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    // Of a small vocabulary, and of a large one.
    for vocab in [331, 49954] {
        let (logits, out) = (e.f32(&[3, vocab]), e.u32(&[3], Fill::Value(0)));
        argmax(&mut e.recording, logits, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    /// The argmax of each row, by both executors, which must agree.
    fn run(rows: &[Vec<f32>]) -> Vec<u32> {
        let outputs = play_both(1, |pool, r, _| {
            let logits = pool.f32(&[rows.len(), rows[0].len()], &rows.concat()).unwrap();
            let out = pool.u32(&[rows.len()], &vec![77; rows.len()]).unwrap();
            argmax(r, logits, out);
            vec![out]
        });
        assert_eq!(outputs[0].0, outputs[0].1);
        outputs[0].1.clone()
    }

    #[test]
    fn gpu_equals_reference() {
        let mut random = crate::ops::testing::Random::new(9);
        for (batch, vocab) in [(1, 1), (3, 2), (7, 331), (5, 256), (2, 49954)] {
            let rows: Vec<_> = (0..batch).map(|_| random.f32s(vocab)).collect();
            let found = run(&rows);
            for (index, row) in found.iter().zip(&rows) {
                assert!(row.iter().all(|v| *v <= row[*index as usize]));
            }
        }
    }

    #[test]
    fn the_lowest_of_equal_indices_wins() {
        let mut row = vec![-1.0; 1000];
        for i in [300, 556, 812, 999] {
            row[i] = 2.5;
        }
        let mut zeros = vec![-0.0; 1000];
        zeros[7] = 0.0;
        assert_eq!(run(&[row, zeros, vec![f32::MIN; 1000], vec![f32::MAX; 1000]]), [300, 0, 0, 0]);
    }

    #[test]
    fn numbers_that_are_not_finite_are_reported() {
        let with = |at: usize, value: f32| {
            let mut row = vec![1.0; 600];
            row[at] = value;
            row
        };
        let rows = [
            with(599, f32::NAN),
            with(0, f32::INFINITY),
            with(257, f32::NEG_INFINITY),
            with(300, -f32::NAN),
            with(300, 1e-45),
            with(300, f32::MAX),
        ];
        let none = u32::MAX;
        assert_eq!(run(&rows), [none, none, none, none, 0, 300]);
    }
}
