//! BLEU-4 (Papineni et al., 2002) and CIDEr-D (Vedantam et al., 2015) of captions, each with several references, as
//! pycocoevalcap computes them.

use std::collections::{HashMap, HashSet};

/// Longest run of words that is counted.
const N: usize = 4;
/// How far lengths may differ before CIDEr-D falls.
const SIGMA: f64 = 6.0;

/// A caption and its references, as words.
pub struct Scored {
    pub caption: Vec<String>,
    pub references: Vec<Vec<String>>,
}

type Counts<'a> = HashMap<&'a [String], f64>;

/// How often each run of 1 to N words is there.
fn counts(words: &[String]) -> Counts<'_> {
    let mut counts = HashMap::new();
    for run in (1..=N).flat_map(|n| words.windows(n)) {
        *counts.entry(run).or_insert(0.0) += 1.0;
    }
    counts
}

/// BLEU-4 of all captions together: `exp(min(0, 1 - r / c)) * (p1 p2 p3 p4)^(1/4)`, `r` the lengths of the references that
/// are closest to each caption's.
pub fn bleu4(all: &[Scored]) -> f64 {
    const TINY: f64 = 1e-15;
    const SMALL: f64 = 1e-9;
    let (mut guessed, mut right) = ([0f64; N], [0f64; N]);
    let (mut length, mut wanted) = (0usize, 0usize);
    for Scored { caption, references } in all {
        let own = caption.len();
        length += own;
        let lengths = references.iter().map(Vec::len);
        wanted += lengths.min_by_key(|&length| (length.abs_diff(own), length)).unwrap_or(0);
        let references: Vec<Counts> = references.iter().map(|words| counts(words)).collect();
        for (run, count) in counts(caption) {
            let most = references.iter().filter_map(|counts| counts.get(run)).copied().fold(0.0, f64::max);
            right[run.len() - 1] += count.min(most);
        }
        (0..N).for_each(|n| guessed[n] += own.saturating_sub(n) as f64);
    }
    let product: f64 = (0..N).map(|n| (right[n] + TINY) / (guessed[n] + SMALL)).product();
    let ratio = (length as f64 + TINY) / (wanted as f64 + SMALL);
    product.powf(1.0 / N as f64) * if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 }
}

/// A caption's weights: `count * log(captions / captions with the run)` of each run, by its length.
struct Weighed<'a> {
    runs: [Vec<(&'a [String], f64)>; N],
    norms: [f64; N],
    /// Pairs of words.
    length: f64,
}

/// CIDEr-D: ten times the mean over captions, references and runs of 1 to 4 words of the cosine of their weights, those of
/// the caption at most the reference's, times `exp(-d^2 / (2 SIGMA^2))` where lengths differ by `d`.
pub fn cider_d(all: &[Scored]) -> f64 {
    let mut seen: HashMap<&[String], f64> = HashMap::new();
    for Scored { references, .. } in all {
        let runs: HashSet<&[String]> = references.iter().flat_map(|words| counts(words).into_keys()).collect();
        runs.into_iter().for_each(|run| *seen.entry(run).or_insert(0.0) += 1.0);
    }
    let captions = (all.len() as f64).ln();
    let total: f64 = all
        .iter()
        .map(|Scored { caption, references }| {
            let own = weighed(caption, &seen, captions);
            let sum: f64 = references.iter().map(|words| likeness(&own, &weighed(words, &seen, captions))).sum();
            10.0 * sum / N as f64 / references.len() as f64
        })
        .sum();
    total / all.len() as f64
}

fn weighed<'a>(words: &'a [String], seen: &HashMap<&[String], f64>, captions: f64) -> Weighed<'a> {
    let mut weighed =
        Weighed { runs: Default::default(), norms: [0.0; N], length: words.len().saturating_sub(1) as f64 };
    for (run, count) in counts(words) {
        let weight = count * (captions - seen.get(run).copied().unwrap_or(0.0).max(1.0).ln());
        weighed.runs[run.len() - 1].push((run, weight));
        weighed.norms[run.len() - 1] += weight * weight;
    }
    weighed.norms = weighed.norms.map(f64::sqrt);
    weighed
}

/// The sum over lengths of runs.
fn likeness(own: &Weighed, reference: &Weighed) -> f64 {
    let distance = own.length - reference.length;
    let penalty = (-(distance * distance) / (2.0 * SIGMA * SIGMA)).exp();
    let of = |n: usize| {
        let wanted: HashMap<&[String], f64> = reference.runs[n].iter().copied().collect();
        let both = own.runs[n].iter().map(|(run, weight)| {
            let wanted = wanted.get(run).copied().unwrap_or(0.0);
            weight.min(wanted) * wanted
        });
        let product: f64 = both.sum();
        let norms = own.norms[n] * reference.norms[n];
        penalty * if norms > 0.0 { product / norms } else { product }
    };
    (0..N).map(of).sum()
}
