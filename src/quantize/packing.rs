//! Weights to integers. A group's scale is the one of least squared error among many starts, each refitted to the
//! integers that it gives (`scale = sum(w t) / sum(t^2)`, `t = q - zero`) and rounded to the 16 bits that it is stored
//! in.

use half::{bf16, f16};

use crate::files::safetensors::TensorType;

/// How one matrix is packed.
#[derive(Clone, Copy)]
pub(super) struct Scheme {
    pub(super) bits: u32,
    /// Columns a group.
    pub(super) group: usize,
    pub(super) symmetric: bool,
    /// F16 or BF16.
    pub(super) scales: TensorType,
}

/// Some packed rows.
#[derive(Default)]
pub(super) struct Rows {
    /// [rows, row_words]
    pub(super) words: Vec<u32>,
    /// [rows, groups], in the 16-bit type of the scheme.
    pub(super) scales: Vec<u16>,
    /// [rows, groups]
    pub(super) zeros: Vec<u8>,
    pub(super) error: f64,
    pub(super) squares: f64,
}

pub(super) fn pack_rows_in_threads(values: &[f32], cols: usize, scheme: Scheme) -> Rows {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let rows = values.len() / cols;
    let share = rows.div_ceil(threads).max(1) * cols;
    std::thread::scope(|scope| {
        let started: Vec<_> =
            values.chunks(share).map(|values| scope.spawn(move || pack_rows(values, cols, scheme))).collect();
        let mut all = Rows::default();
        for thread in started {
            let rows = thread.join().expect("packing does not panic");
            all.words.extend(rows.words);
            all.scales.extend(rows.scales);
            all.zeros.extend(rows.zeros);
            all.error += rows.error;
            all.squares += rows.squares;
        }
        all
    })
}

fn pack_rows(values: &[f32], cols: usize, scheme: Scheme) -> Rows {
    let bits = scheme.bits as usize;
    let row_words = (cols * bits).div_ceil(32);
    let mut out = Rows { words: vec![0; values.len() / cols * row_words], ..Rows::default() };
    for (row, words) in values.chunks(cols).zip(out.words.chunks_mut(row_words)) {
        for (g, group) in row.chunks(scheme.group).enumerate() {
            let fit = fit(group, scheme);
            for (i, &w) in group.iter().enumerate() {
                let q = fit.code(w, scheme.bits);
                let at = (g * scheme.group + i) * bits;
                words[at / 32] |= q << (at % 32);
                let difference = f64::from(w) - f64::from(fit.scale) * (f64::from(q) - f64::from(fit.zero));
                out.error += difference * difference;
                out.squares += f64::from(w) * f64::from(w);
            }
            out.scales.push(match scheme.scales {
                TensorType::F16 => f16::from_f32(fit.scale).to_bits(),
                _ => bf16::from_f32(fit.scale).to_bits(),
            });
            out.zeros.push(fit.zero as u8);
        }
    }
    out
}

/// The scale, exact in its stored type, and the zero of a group.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    zero: f32,
    error: f32,
}

impl Fit {
    fn code(&self, w: f32, bits: u32) -> u32 {
        let largest = ((1u32 << bits) - 1) as f32;
        (nearest((w / self.scale).clamp(-self.zero, largest - self.zero)) + self.zero) as u32
    }
}

/// Rounds numbers below 2^22 to the nearest whole one, ties to the even one, in instructions that every processor has.
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// The best scale and zero of a group of finite weights.
fn fit(weights: &[f32], scheme: Scheme) -> Fit {
    let largest = ((1u32 << scheme.bits) - 1) as f32;
    let middle = (1u32 << (scheme.bits - 1)) as f32;
    let (low, high) = weights.iter().fold((0.0f32, 0.0f32), |(l, h), &w| (l.min(w), h.max(w)));
    // Everything at zero: what no scale is worse than.
    let zeros = weights.iter().map(|w| w * w).sum();
    let mut best = Fit { scale: 1.0, zero: middle, error: zeros };
    if low == high {
        return best;
    }
    // With 8 bits little is gained by cutting off large values; with 4 much.
    let (starts, step) = if scheme.bits == 4 { (24, 0.03) } else { (10, 0.01) };
    for start in 0..starts {
        let share = 1.08 - start as f32 * step;
        if scheme.symmetric {
            try_scale(weights, share * high.max(-low) / (middle - 1.0), middle, largest, scheme, &mut best);
        } else {
            let cut = (1.0 - share) / 2.0 * (high - low);
            let scale = share * (high - low) / largest;
            let zero = nearest((-(low + cut) / scale).clamp(0.0, largest));
            for zero in [zero - 1.0, zero, zero + 1.0] {
                if (0.0..=largest).contains(&zero) {
                    try_scale(weights, scale, zero, largest, scheme, &mut best);
                }
            }
        }
    }
    // The best once more until it stays.
    for _ in 0..8 {
        let before = best.error;
        try_scale(weights, best.scale, best.zero, largest, scheme, &mut best);
        if best.error == before {
            break;
        }
    }
    best
}

/// Refits `scale` to the integers that it gives, and keeps it when it is better than `best`.
fn try_scale(weights: &[f32], scale: f32, zero: f32, largest: f32, scheme: Scheme, best: &mut Fit) {
    let inverse = scale.recip();
    if !(inverse.is_finite() && inverse > 0.0) {
        return;
    }
    let (low, high) = (-zero, largest - zero);
    let product = sum_of(weights, |w| w * nearest((w * inverse).clamp(low, high)));
    let square = sum_of(weights, |w| {
        let t = nearest((w * inverse).clamp(low, high));
        t * t
    });
    let refitted = product / square;
    let stored = match scheme.scales {
        TensorType::F16 => f16::from_f32(refitted).to_f32(),
        _ => bf16::from_f32(refitted).to_f32(),
    };
    let inverse = stored.recip();
    if !(stored.is_finite() && inverse.is_finite() && inverse > 0.0) {
        return;
    }
    let error = sum_of(weights, |w| {
        let difference = w - stored * nearest((w * inverse).clamp(low, high));
        difference * difference
    });
    if error < best.error {
        *best = Fit { scale: stored, zero, error };
    }
}

/// The sum of a term a weight, in eight lanes.
fn sum_of(weights: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (eights, rest) = weights.as_chunks::<8>();
    for eight in eights {
        for (lane, &w) in lanes.iter_mut().zip(eight) {
            *lane += term(w);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&w| term(w)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(bits: u32, group: usize, symmetric: bool) -> Scheme {
        Scheme { bits, group, symmetric, scales: TensorType::BF16 }
    }

    fn relative_error(values: &[f32], cols: usize, scheme: Scheme) -> f64 {
        let rows = pack_rows(values, cols, scheme);
        rows.error / rows.squares
    }

    /// Numbers of a normal distribution, nearly: sums of twelve even ones.
    fn normal(count: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..count).map(|_| (0..12).map(|_| next()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn groups_that_integers_hold_are_exact() {
        let values: Vec<f32> = (0..64).map(|i| 0.25 * ((i % 16) as f32 - 8.0)).collect();
        let rows = pack_rows(&values, 32, scheme(4, 32, true));
        assert_eq!((rows.error, rows.scales[0]), (0.0, bf16::from_f32(0.25).to_bits()));
        assert_eq!(rows.words[0], 0x7654_3210);
        assert_eq!(rows.words[1], 0xfedc_ba98);
        let shifted: Vec<f32> = values.iter().map(|v| v + 1.25).collect();
        let rows = pack_rows(&shifted, 32, scheme(4, 32, false));
        assert_eq!((rows.error, rows.zeros[0]), (0.0, 3));
    }

    #[test]
    fn degenerate_groups() {
        for symmetric in [true, false] {
            let s = scheme(4, 32, symmetric);
            assert_eq!(pack_rows(&[0.0; 32], 32, s).error, 0.0);
            // Too small for any scale, too large for its square, and all of one sign.
            for value in [1e-45, -1e-40, 3e38, -3e38, 7.5] {
                let rows = pack_rows(&[value; 32], 32, s);
                assert!(rows.error <= rows.squares, "{value} {symmetric}");
                let scale = bf16::from_bits(rows.scales[0]).to_f32();
                assert!(scale.is_finite() && scale > 0.0, "{value}: {scale}");
            }
            assert!(relative_error(&[7.5; 32], 32, s) < 1e-4);
        }
    }

    #[test]
    fn least_squares_is_better_than_the_largest_value() {
        let values = normal(32 * 512);
        let by_largest = |values: &[f32]| {
            let mut error = 0.0;
            for group in values.chunks(32) {
                let largest = group.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                let scale = bf16::from_f32(largest / 7.0).to_f32();
                error += group
                    .iter()
                    .map(|w| f64::from(w - scale * nearest((w / scale).clamp(-8.0, 7.0))).powi(2))
                    .sum::<f64>();
            }
            error / values.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
        };
        let (largest, least) = (by_largest(&values), relative_error(&values, 32, scheme(4, 32, true)));
        assert!(least < 0.85 * largest, "{least} {largest}");
        assert!(relative_error(&values, 32, scheme(4, 32, false)) < least);
        assert!(relative_error(&values, 32, scheme(8, 32, true)) < 4e-5);
        // A whole row a scale.
        let channel = relative_error(&values, 4096, scheme(4, 4096, true));
        assert!(channel < 1.25e-2, "{channel}");
    }
}
