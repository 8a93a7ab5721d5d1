//! The k largest values of each row with their indices: the candidates of a beam search step.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{grid, kernel, read, write};

static KERNEL: Kernel = kernel!("logits", "top_k", Params, reference);

/// Lanes of a workgroup: one for each digit of the radix selection.
const LANES: u32 = 256;

/// The largest `k`.
pub const MAX_K: usize = 64;

uniform! {
    struct Params {
        rows: u32,
        vocab: u32,
        k: u32,
    }
}

/// The `k` (1 to [`MAX_K`]) largest of each row of `scores` F32 [rows, vocab], largest first, the lower index first
/// among equals. Returns the values F32 [rows, k] and their indices U32 [rows, k].
///
/// Places beyond the vocabulary hold the lowest finite f32 and `u32::MAX`. The first index of a row that holds NaN or
/// infinity is `u32::MAX`.
pub fn top_k(r: &mut Recording, scores: Tensor, k: usize) -> (Tensor, Tensor) {
    assert!((1..=MAX_K).contains(&k), "top_k: k {k} of {:?}", scores.shape());
    assert!(!scores.is_empty() && scores.dtype == DType::F32, "top_k: scores {scores:?}");
    let rows = scores.rows();
    let values = r.scratch_f32(&[rows, k]);
    let ids = r.scratch(DType::U32, &[rows, k]);
    let params = Params { rows: rows as u32, vocab: scores.width() as u32, k: k as u32 };
    let operands = [read(scores), write(values), write(ids)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(rows));
    (values, ids)
}

/// A float's bits as an integer of the same order; both zeros give the same. As in `shaders/shared/floats.wgsl`.
pub(crate) fn order_of(bits: u32) -> u32 {
    match bits {
        0x8000_0000 => bits,
        _ if bits > 0x8000_0000 => !bits,
        _ => bits ^ 0x8000_0000,
    }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (scores, mut values, mut ids) = (call.u32(0), call.u32_mut(1), call.u32_mut(2));
    let (vocab, k) = (p.vocab as usize, p.k as usize);
    for (row, scores) in scores.chunks(vocab).enumerate() {
        let mut order: Vec<usize> = (0..vocab).collect();
        order.sort_by_key(|&i| (!order_of(scores[i]), i));
        for place in 0..k {
            let at = row * k + place;
            values[at] = order.get(place).map_or(f32::MIN.to_bits(), |&i| scores[i]);
            ids[at] = order.get(place).map_or(u32::MAX, |&i| i as u32);
        }
        if scores.iter().any(|&bits| !f32::from_bits(bits).is_finite()) {
            ids[row * k] = u32::MAX;
        }
    }
}

pub(crate) static OP: Op = Op { name: "top_k", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let scores = e.f32(&[5, 49954]);
    top_k(&mut e.recording, scores, 10);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{keep, play_both};

    /// Plays `top_k` of rows of `vocab` scores, which `scores` makes, on both executors; returns values and ids.
    fn check(case: &str, vocab: usize, k: usize, scores: &[f32]) -> (Vec<f32>, Vec<u32>) {
        let outputs = play_both(3, |pool, r, _| {
            let scores = pool.f32(&[scores.len() / vocab, vocab], scores).unwrap();
            let (values, ids) = top_k(r, scores, k);
            vec![keep(pool, r, values), keep(pool, r, ids)]
        });
        for (expected, found) in &outputs {
            assert_eq!(expected, found, "{case}");
        }
        (bytemuck::cast_slice(&outputs[0].1).to_vec(), outputs[1].1.clone())
    }

    #[test]
    fn gpu_equals_reference() {
        let mut random = crate::ops::testing::Random::new(5);
        for (rows, vocab, k) in [(1, 1, 1), (3, 7, 10), (2, 331, 10), (5, 257, 64), (2, 49954, 12), (1, 64, 64)] {
            check(&format!("{rows} {vocab} {k}"), vocab, k, &random.f32s(rows * vocab));
            // Few distinct values: equals at the cut, among them both zeros.
            let equals: Vec<f32> = (0..rows * vocab).map(|_| (random.f32() * 3.0).trunc()).collect();
            check(&format!("{rows} {vocab} {k}, equals"), vocab, k, &equals);
        }
    }

    #[test]
    fn lower_index_first_and_padding() {
        let (values, ids) = check("equals", 5, 7, &[-1.0, 2.0, f32::MIN, 2.0, 2.0]);
        assert_eq!(ids, [1, 3, 4, 0, 2, u32::MAX, u32::MAX]);
        assert_eq!(values, [2.0, 2.0, 2.0, -1.0, f32::MIN, f32::MIN, f32::MIN]);
        let (_, ids) = check("all the same", 1000, 3, &[f32::MIN; 1000]);
        assert_eq!(ids, [0, 1, 2]);
    }

    #[test]
    fn odd_numbers_are_reported() {
        for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut scores = vec![0.5; 2 * 300];
            scores[277] = odd;
            let (_, ids) = check("odd", 300, 2, &scores);
            assert_eq!((ids[0], &ids[2..]), (u32::MAX, &[0, 1][..]), "{odd}");
        }
    }
}
