//! Hugging Face's logits processors: repetition penalty, no repeated n-grams, minimum length, in this order.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{grid, kernel, read, write};

static KERNEL: Kernel = kernel!("logits", "penalize", Params, reference);

/// Lanes of a workgroup, one a row.
const LANES: u32 = 256;

uniform! {
    struct Params {
        rows: u32,
        vocab: u32,
        capacity: u32,
        eos_count: u32,
        penalty: f32,
        ngram: u32,
        min_new: u32,
        lengths_stride: u32,
    }
}

/// What [`penalize`] does to the scores.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Penalties {
    /// Above 0; 1 changes nothing, more makes ids of the history less likely.
    pub repetition_penalty: f32,
    /// No n-gram of this many ids occurs twice; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// No end id before this many new ids.
    pub min_new_tokens: usize,
}

impl Default for Penalties {
    /// Nothing is changed.
    fn default() -> Penalties {
        Penalties { repetition_penalty: 1.0, no_repeat_ngram_size: 0, min_new_tokens: 0 }
    }
}

/// Changes `scores` F32 [rows, vocab] in place: ids of the row's history lose by the repetition penalty, once however
/// often they occur; ids that would repeat an n-gram, and end ids too early, become the lowest finite f32. Scores that
/// are lowest already stay, and none becomes infinite.
///
/// `history` U32 [rows, capacity]: the BOS and then the generated ids of each row. `lengths` U32 `[2]`, or [rows, 2]
/// where each row has its own, read when the op runs: how many ids a row of `history` holds now, and how many of these do
/// not count for `min_new_tokens` (1, the BOS). `eos` U32 `[n]`: the end ids. Ids outside the vocabulary are passed over.
pub fn penalize(
    r: &mut Recording,
    scores: Tensor,
    history: Tensor,
    lengths: Tensor,
    eos: Tensor,
    penalties: Penalties,
) {
    let Penalties { repetition_penalty, no_repeat_ngram_size, min_new_tokens } = penalties;
    assert!(
        repetition_penalty > 0.0 && repetition_penalty.is_finite(),
        "penalize: a repetition penalty of {repetition_penalty}"
    );
    assert_eq!(history.rows(), scores.rows(), "penalize: history {:?}, scores {:?}", history.shape(), scores.shape());
    let each = lengths.len() == 2 * scores.rows();
    assert!(lengths.len() == 2 || each, "penalize: lengths {:?}, scores {:?}", lengths.shape(), scores.shape());
    for tensor in [history, lengths, eos] {
        assert_eq!(tensor.dtype, DType::U32, "penalize: {tensor:?}");
    }
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).min(1 << 30);
    let params = Params {
        rows: scores.rows() as u32,
        vocab: scores.width() as u32,
        capacity: history.width() as u32,
        eos_count: eos.len() as u32,
        penalty: repetition_penalty,
        ngram: small(no_repeat_ngram_size),
        min_new: small(min_new_tokens),
        lengths_stride: if each { 2 } else { 0 },
    };
    let operands = [read(history), read(lengths), read(eos), write(scores)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(scores.rows()));
}

fn penalized(score: f32, penalty: f32) -> f32 {
    if !score.is_finite() || score == f32::MIN {
        score
    } else if score < 0.0 {
        (score * penalty).max(f32::MIN)
    } else {
        (score / penalty).min(f32::MAX)
    }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (history, lengths, eos, mut scores) = (call.u32(0), call.u32(1), call.u32(2), call.f32_mut(3));
    let rows = history.chunks(p.capacity as usize).zip(scores.chunks_mut(p.vocab as usize));
    for (row, (history, scores)) in rows.enumerate() {
        let lengths = &lengths[row * p.lengths_stride as usize..];
        let length = (lengths[0] as usize).min(p.capacity as usize);
        let history = &history[..length];
        let mut ids = history.to_vec();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            if let Some(score) = scores.get_mut(id as usize).filter(|_| p.penalty != 1.0) {
                *score = penalized(*score, p.penalty);
            }
        }
        let mut ban = |id: u32| {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = f32::MIN;
            }
        };
        if p.ngram > 0 && length + 1 >= p.ngram as usize {
            let tail = &history[length + 1 - p.ngram as usize..];
            for ngram in history.windows(p.ngram as usize).filter(|n| n.starts_with(tail)) {
                ban(ngram[tail.len()]);
            }
        }
        if (length as u32) < lengths[1] + p.min_new {
            eos[..p.eos_count as usize].iter().for_each(|&id| ban(id));
        }
    }
}

pub(crate) static OP: Op = Op { name: "penalize", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(0, Fill::Below(t.param("vocab").min(60) as u32));
    t.fill(1, Fill::Value(t.param("capacity") as u32 - 1));
    t.fill(2, Fill::Below(t.param("vocab") as u32));
}

fn examples(e: &mut Examples) {
    let (scores, history) = (e.f32(&[5, 49954]), e.u32(&[5, 40], Fill::Below(49954)));
    let (lengths, eos) = (e.u32(&[2], Fill::Value(30)), e.u32(&[1], Fill::Value(2)));
    let penalties = Penalties { repetition_penalty: 1.5, no_repeat_ngram_size: 3, min_new_tokens: 8 };
    penalize(&mut e.recording, scores, history, lengths, eos, penalties);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    /// Plays on both executors and compares: the lowest value exactly, others to rounding. Returns the scores.
    fn check(
        scores: &[f32],
        history: &[&[u32]],
        length: u32,
        not_new: u32,
        eos: &[u32],
        penalties: Penalties,
    ) -> Vec<f32> {
        let rows = history.len();
        let outputs = play_both(1, |pool, r, _| {
            let scores = pool.f32(&[rows, scores.len() / rows], scores).unwrap();
            let history = pool.u32(&[rows, history[0].len()], &history.concat()).unwrap();
            let lengths = pool.u32(&[2], &[length, not_new]).unwrap();
            let eos = pool.u32(&[eos.len()], eos).unwrap();
            penalize(r, scores, history, lengths, eos, penalties);
            vec![scores]
        });
        let expected: &[f32] = bytemuck::cast_slice(&outputs[0].0);
        let found: &[f32] = bytemuck::cast_slice(&outputs[0].1);
        for (i, (e, f)) in expected.iter().zip(found).enumerate() {
            let same = e.to_bits() == f.to_bits() || (e - f).abs() <= 1e-6 * e.abs() && *e != f32::MIN;
            assert!(same, "{i}: expected {e}, found {f}: {penalties:?}");
        }
        found.to_vec()
    }

    const LOW: f32 = f32::MIN;

    #[test]
    fn repetition() {
        let penalties = Penalties { repetition_penalty: 2.0, ..Penalties::default() };
        let history: &[&[u32]] = &[&[1, 3, 1, 0, 2], &[4, 4, 4, 9, 1]];
        let scores = [1.0, -1.0, 5.0, LOW, 7.0, -2e38, 1.0, 1.0, 1.0, -3e38];
        // Three ids count: 1 twice, 3 once; row 1: 4 thrice, once penalised.
        let found = check(&scores, history, 3, 1, &[0], penalties);
        assert_eq!(found, [1.0, -2.0, 5.0, LOW, 7.0, -2e38, 1.0, 1.0, 1.0, LOW]);
        // A penalty below 1 rewards; nothing becomes infinite, and the lowest stays.
        let penalties = Penalties { repetition_penalty: 0.25, ..Penalties::default() };
        let found = check(&[3e38, -4.0, 2.0, LOW], &[&[0, 1, 2, 3, 9]], 5, 1, &[0], penalties);
        assert_eq!(found, [f32::MAX, -1.0, 8.0, LOW]);
    }

    #[test]
    fn ngrams() {
        let ngram = |n| Penalties { no_repeat_ngram_size: n, ..Penalties::default() };
        let banned = |history: &[u32], length: u32, n: usize| {
            let found = check(&[0.5; 8], &[history], length, 1, &[7], ngram(n));
            (0..8).filter(|&i| found[i] == LOW).collect::<Vec<_>>()
        };
        assert_eq!(banned(&[1, 3, 1, 4, 6], 4, 1), [1, 3, 4]);
        assert_eq!(banned(&[1, 3, 1, 4, 1], 5, 2), [3, 4]);
        assert_eq!(banned(&[1, 3, 1, 4, 1], 4, 2), [] as [usize; 0]);
        assert_eq!(banned(&[1, 3, 5, 2, 1, 3], 6, 3), [5]);
        assert_eq!(banned(&[2, 2, 2, 0, 0], 3, 3), [2]);
        assert_eq!(banned(&[2, 2, 2, 0, 0], 3, 4), [] as [usize; 0]);
        assert_eq!(banned(&[2, 2, 2, 0, 0], 1, 100), [] as [usize; 0]);
    }

    #[test]
    fn minimum_length() {
        let penalties = Penalties { min_new_tokens: 2, ..Penalties::default() };
        let history: &[&[u32]] = &[&[1, 0, 0, 0], &[1, 3, 3, 3]];
        for (length, lowest) in [(1, true), (2, true), (3, false), (4, false)] {
            let found = check(&[0.5; 8], history, length, 1, &[2, 0, 99], penalties);
            let expected = if lowest { LOW } else { 0.5 };
            assert_eq!(found, [expected, 0.5, expected, 0.5, expected, 0.5, expected, 0.5]);
        }
        assert_eq!(check(&[0.5; 8], history, 1, 1, &[], penalties), [0.5; 8]);
    }

    #[test]
    fn each_row_has_lengths_of_its_own() {
        let penalties = Penalties { min_new_tokens: 2, repetition_penalty: 2.0, ..Penalties::default() };
        let outputs = play_both(1, |pool, r, _| {
            let scores = pool.f32(&[3, 4], &[0.5; 12]).unwrap();
            let history = pool.u32(&[3, 4], &[1, 3, 3, 3, 1, 0, 0, 0, 1, 3, 0, 2]).unwrap();
            let lengths = pool.u32(&[3, 2], &[1, 1, 4, 1, 4, 3]).unwrap();
            let eos = pool.u32(&[1], &[2]).unwrap();
            penalize(r, scores, history, lengths, eos, penalties);
            vec![scores]
        });
        for found in [&outputs[0].0, &outputs[0].1] {
            let found: &[f32] = bytemuck::cast_slice(found);
            assert_eq!(found, [0.5, 0.25, LOW, 0.5, 0.25, 0.25, 0.5, 0.5, 0.25, 0.25, LOW, 0.25]);
        }
    }

    #[test]
    fn gpu_equals_reference() {
        let mut random = crate::ops::testing::Random::new(9);
        for (rows, vocab, capacity, length) in
            [(1, 1, 1, 1), (3, 331, 17, 13), (5, 97, 1500, 1333), (2, 4999, 400, 400)]
        {
            for (repetition_penalty, no_repeat_ngram_size, min_new_tokens) in
                [(1.3, 0, 0), (1.0, 2, 0), (1.3, 3, 2000), (0.7, 1, length)]
            {
                let scores: Vec<f32> = random.f32s(rows * vocab).iter().map(|v| v * 20.0).collect();
                let history: Vec<Vec<u32>> =
                    (0..rows).map(|_| (0..capacity).map(|_| random.below(vocab as u32)).collect()).collect();
                let history: Vec<&[u32]> = history.iter().map(|h| &h[..]).collect();
                let penalties = Penalties { repetition_penalty, no_repeat_ngram_size, min_new_tokens };
                check(&scores, &history, length as u32, 1, &[0, vocab as u32 / 2], penalties);
            }
        }
    }
}
