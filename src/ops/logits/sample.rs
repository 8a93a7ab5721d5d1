//! A draw of the next id by temperature, top-k and top-p, from a counter-based generator.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::logits::sampling::{MAX_TEMPERATURE, MIN_TEMPERATURE, Sampling};
use crate::ops::logits::top_k::order_of;
use crate::ops::trial::Trial;
use crate::ops::{grid, kernel, read, write};

static KERNEL: Kernel = kernel!("logits", "sample", Params, reference);

/// Lanes of a workgroup: one for each digit of the radix descent.
const LANES: u32 = 256;

uniform! {
    struct Params {
        rows: u32,
        vocab: u32,
        top_k: u32,
        use_top_p: u32,
        top_p: u32,
        seed_low: u32,
        seed_high: u32,
        bits: u32,
        index_passes: u32,
        temperature: f32,
        scale: f32,
    }
}

/// Draws an id for each row of `scores` F32 [rows, vocab] into `out` U32 `[rows]`; `u32::MAX` where a row holds NaN or
/// infinity.
///
/// `step` U32 `[1]`, read when the op runs, is the generator's counter: the draw of a row is a function of seed, step,
/// row and scores alone, on every device, but for the rounding of exp.
pub fn sample(r: &mut Recording, scores: Tensor, step: Tensor, sampling: Sampling, out: Tensor) {
    let Sampling { temperature, top_k, top_p, seed } = sampling;
    assert!((MIN_TEMPERATURE..=MAX_TEMPERATURE).contains(&temperature), "sample: a temperature of {temperature}");
    assert!((0.0..=1.0).contains(&top_p), "sample: a top_p of {top_p}");
    assert!(!scores.is_empty() && scores.dtype == DType::F32, "sample: scores {scores:?}");
    let (rows, vocab) = (scores.rows(), scores.width());
    assert!(step.len() == 1 && step.dtype == DType::U32, "sample: step {step:?}");
    assert!(out.len() == rows && out.dtype == DType::U32, "sample: out {out:?}, scores {:?}", scores.shape());
    let params = Params {
        rows: rows as u32,
        vocab: vocab as u32,
        top_k: if top_k < vocab { top_k as u32 } else { 0 },
        use_top_p: u32::from(top_p < 1.0),
        top_p: (f64::from(top_p) * 4294967296.0) as u32,
        seed_low: seed as u32,
        seed_high: (seed >> 32) as u32,
        bits: (32 - vocab.next_power_of_two().trailing_zeros()).min(15),
        index_passes: (1..4).find(|n| vocab <= 1 << (8 * n)).unwrap_or(4),
        temperature,
        scale: 1.0 / temperature,
    };
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(scores), read(step), write(out)], params, grid(rows));
}

/// Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
pub fn philox(counter: [u32; 4], seed: u64) -> [u32; 4] {
    let mut c = counter;
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let a = 0xD251_1F53u64 * u64::from(c[0]);
        let b = 0xCD9E_8D57u64 * u64::from(c[2]);
        c = [(b >> 32) as u32 ^ c[1] ^ key[0], b as u32, (a >> 32) as u32 ^ c[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// floor(sum * fraction / 2^32) with the shader's rounding.
fn portion(sum: u64, fraction: u32, bits: u32) -> u64 {
    let (high, low, fraction) = (sum >> bits, sum & ((1 << bits) - 1), u64::from(fraction));
    ((high * fraction) >> (32 - bits)) + ((low * fraction) >> 32)
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (scores, step, mut out) = (call.f32(0), call.u32(1), call.u32_mut(2));
    let seed = u64::from(p.seed_high) << 32 | u64::from(p.seed_low);
    for (row, scores) in scores.chunks(p.vocab as usize).enumerate() {
        if scores.iter().any(|v| !v.is_finite()) {
            out[row] = u32::MAX;
            continue;
        }
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        let one = 1u64 << (2 * p.bits);
        let weight = |i: usize| {
            let distance = (scores[i] - most).max(-100.0 * p.temperature);
            (((distance * p.scale).exp() * one as f32 + 0.5) as u64).min(one - 1)
        };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse((order_of(scores[i].to_bits()), i)));
        if p.top_k > 0 {
            let least = scores[order[p.top_k as usize - 1]];
            order.retain(|&i| scores[i] >= least);
        }
        let find = |point: u64| {
            let mut above = 0;
            for &i in &order {
                let w = weight(i);
                if point < above + w {
                    return (i, above + w);
                }
                above += w;
            }
            unreachable!("a point beyond the sum")
        };
        let mut kept: u64 = order.iter().map(|&i| weight(i)).sum();
        if p.use_top_p == 1 {
            kept = find(portion(kept, p.top_p, p.bits).saturating_sub(1)).1;
        }
        out[row] = find(portion(kept, philox([step[0], row as u32, 0, 0], seed)[0], p.bits)).0 as u32;
    }
}

pub(crate) static OP: Op = Op { name: "sample", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(1, Fill::Value(3));
}

fn examples(e: &mut Examples) {
    let scores = e.f32(&[5, 49954]);
    let (step, out) = (e.u32(&[1], Fill::Value(3)), e.u32(&[5], Fill::Value(0)));
    let sampling = Sampling { temperature: 0.5, top_k: 50, top_p: 0.9, seed: 7 };
    sample(&mut e.recording, scores, step, sampling, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::testing::{Random, play_both};

    /// The model's own distribution.
    const WHOLE: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// Draws of both executors, a row a draw: (CPU's, GPU's).
    fn draw(vocab: usize, scores: &[f32], step: u32, sampling: Sampling) -> (Vec<u32>, Vec<u32>) {
        let rows = scores.len() / vocab;
        let outputs = play_both(1, |pool, r, _| {
            let scores = pool.f32(&[rows, vocab], scores).unwrap();
            let step = pool.u32(&[1], &[step]).unwrap();
            let out = pool.u32(&[rows], &vec![77; rows]).unwrap();
            sample(r, scores, step, sampling, out);
            vec![out]
        });
        outputs.into_iter().next().unwrap()
    }

    fn draw_on_cpu(vocab: usize, scores: &[f32], step: u32, sampling: Sampling) -> Vec<u32> {
        let device = Device::cpu();
        let (mut pool, mut r) = (device.pool(), Recording::new());
        let rows = scores.len() / vocab;
        let scores = pool.f32(&[rows, vocab], scores).unwrap();
        let step = pool.u32(&[1], &[step]).unwrap();
        let out = pool.u32(&[rows], &vec![77; rows]).unwrap();
        sample(&mut r, scores, step, sampling, out);
        device.play(&r).unwrap();
        pollster::block_on(device.read_u32(out)).unwrap()
    }

    #[test]
    fn philox_gives_the_published_numbers() {
        assert_eq!(philox([0; 4], 0), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(philox(pi, 0x299f31d0_a4093822), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    /// Equal weights of 2^16 ids: the drawn id is the high half of the generator's word, inverted.
    #[test]
    fn the_shader_has_the_same_generator() {
        for (step, seed) in [(0, 0), (7, 0x299f31d0_a4093822), (u32::MAX, u64::MAX)] {
            let sampling = Sampling { seed, ..WHOLE };
            let (expected, found) = draw(1 << 16, &vec![1.0; 3 << 16], step, sampling);
            assert_eq!(expected, found);
            for (row, id) in found.into_iter().enumerate() {
                let word = philox([step, row as u32, 0, 0], seed)[0];
                assert!(id.abs_diff(!word >> 16) <= 1, "{id} {word:x}");
            }
        }
    }

    #[test]
    fn gpu_equals_reference() {
        let mut random = Random::new(21);
        for (rows, vocab, spread) in [(1, 1, 1.0), (50, 7, 3.0), (31, 331, 8.0), (9, 4999, 6.0), (2, 49954, 10.0)] {
            for (temperature, top_k, top_p) in
                [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.5, 0, 0.9), (1.0, 50, 0.5), (0.01, 3, 0.3), (1e-6, 0, 1.0)]
            {
                let scores: Vec<f32> = random.f32s(rows * vocab).iter().map(|v| v * spread).collect();
                let sampling = Sampling { temperature, top_k, top_p, seed: 0x1234_5678_9abc_def0 };
                let (expected, found) = draw(vocab, &scores, 3, sampling);
                assert_eq!(expected, found, "{rows} {vocab} {sampling:?}");
            }
        }
    }

    /// The ids that Hugging Face's warpers keep, and their probabilities, in f64.
    fn warped(scores: &[f32], s: Sampling) -> Vec<(usize, f64)> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        if s.top_k > 0 {
            let least = scores[order[order.len() - s.top_k.min(order.len())]];
            order.retain(|&i| scores[i] >= least);
        }
        let softmax = |order: &[usize]| {
            let weight = |i: usize| {
                ((f64::from(scores[i]) - f64::from(scores[*order.last().unwrap()])) / f64::from(s.temperature)).exp()
            };
            let sum: f64 = order.iter().map(|&i| weight(i)).sum();
            order.iter().map(|&i| weight(i) / sum).collect::<Vec<_>>()
        };
        if s.top_p < 1.0 {
            let probabilities = softmax(&order);
            let mut sum = 0.0;
            let last = order.len() - 1;
            let stays: Vec<bool> = probabilities
                .iter()
                .enumerate()
                .map(|(i, p)| {
                    sum += p;
                    sum > 1.0 - f64::from(s.top_p) || i == last
                })
                .collect();
            order = order.into_iter().zip(stays).filter(|(_, stays)| *stays).map(|(i, _)| i).collect();
        }
        let probabilities = softmax(&order);
        order.into_iter().zip(probabilities).collect()
    }

    /// Each kept id is drawn, as often as chance has it, and no other: by the CPU, and by the GPU, which on a software
    /// adapter takes a millisecond a row and so draws fewer. The seed is fixed, so is the result.
    #[test]
    fn distribution() {
        const DRAWS: usize = 20000;
        const GPU_DRAWS: usize = 1200;
        let scores = [0.3, -1.0, 2.0, 0.25, 1.5, 2.0, -0.0, 0.5, f32::MIN, 0.0, 1.0];
        for (temperature, top_k, top_p) in
            [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 1, 1.0), (1.0, 6, 1.0), (1.0, 8, 0.7), (1.3, 0, 0.85), (1.0, 0, 0.0)]
        {
            let sampling = Sampling { temperature, top_k, top_p, seed: 2024 };
            let found = draw_on_cpu(scores.len(), &scores.repeat(DRAWS), 5, sampling);
            check_counts(&format!("CPU {sampling:?}"), &found, &warped(&scores, sampling));
            let (expected, found) = draw(scores.len(), &scores.repeat(GPU_DRAWS), 6, sampling);
            check_counts(&format!("GPU {sampling:?}"), &found, &warped(&scores, sampling));
            assert_eq!(expected, found, "{sampling:?}");
        }
    }

    /// Chi-square of draws against (id, probability). Ids with fewer than five draws to come count as one.
    fn check_counts(what: &str, found: &[u32], kept: &[(usize, f64)]) {
        let draws = found.len() as f64;
        let (mut bins, mut rare) = (Vec::new(), (0.0, 0.0));
        let mut counted = 0.0;
        for &(id, probability) in kept.iter().filter(|k| k.1 > 1e-12) {
            let (count, expected) = (found.iter().filter(|f| **f == id as u32).count() as f64, probability * draws);
            counted += count;
            if expected < 5.0 {
                rare = (rare.0 + count, rare.1 + expected);
            } else {
                bins.push((count, expected));
            }
        }
        assert_eq!(counted, draws, "{what}: an id that is not kept was drawn");
        if rare.1 > 0.0 {
            bins.push(rare);
        }
        let square: f64 = bins.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
        // Mean plus four standard deviations of chi-square.
        let freedom = (bins.len() - 1) as f64;
        assert!(square <= freedom + 4.0 * (2.0 * freedom).sqrt(), "{what}: chi-square {square} of {bins:?}");
    }

    #[test]
    fn ties_and_round_sums() {
        let support = |scores: &[f32], top_k, top_p| {
            let sampling = Sampling { top_k, top_p, seed: 3, ..WHOLE };
            let (expected, mut found) = draw(scores.len(), &scores.repeat(60), 0, sampling);
            assert_eq!(expected, found);
            found.sort_unstable();
            found.dedup();
            let mut kept: Vec<u32> =
                warped(scores, sampling).iter().filter(|k| k.1 > 1e-12).map(|k| k.0 as u32).collect();
            kept.sort_unstable();
            assert_eq!(found, kept);
            found
        };
        // Equals of the k-th stay; a sum that is reached exactly is enough.
        assert_eq!(support(&[1.0, 0.0, 1.0, 1.0, -9.0], 2, 1.0), [0, 2, 3]);
        assert_eq!(support(&[1.0; 4], 0, 0.5), [2, 3]);
        assert_eq!(support(&[f32::MIN; 4], 0, 1.0), [0, 1, 2, 3]);
        assert_eq!(support(&[f32::MIN, 3e38, -3e38], 0, 1.0), [1]);
        assert_eq!(support(&[0.0, -0.0, -1.0], 1, 1.0), [0, 1]);
    }

    #[test]
    fn odd_numbers_are_reported() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut scores = vec![0.5; 2 * 300];
            scores[277] = odd;
            let (expected, found) = draw(300, &scores, 0, Sampling { top_p: 0.5, top_k: 7, ..WHOLE });
            assert!(expected == found && found[0] == u32::MAX && found[1] < 300, "{odd}: {expected:?} {found:?}");
        }
    }
}
