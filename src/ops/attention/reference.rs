//! What the kernels of attention compute, one head after another, and what that takes.

use crate::device::recording::{Call, Dispatch};
use crate::device::wgsl::uniform;
use crate::device::work::Work;
use crate::ops::linear::dot;
use crate::ops::logits::softmax;
use crate::weights::layout::read_float;

uniform! {
    pub(super) struct Params {
        count: u32,
        heads: u32,
        rows: u32,
        heads_per_key: u32,
        q_width: u32,
        q_column: u32,
        k_width: u32,
        k_column: u32,
        v_width: u32,
        v_column: u32,
        capacity: u32,
        batches: u32,
        mask_width: u32,
        zero_queries: u32,
        out_width: u32,
        past_stride: u32,
        scale: f32,
    }
}

/// One call's parameters and operands.
struct Operands<'a> {
    p: Params,
    head_dim: usize,
    cached: bool,
    /// The value of the constant `MASK`.
    mask_code: u32,
    table: &'a [u32],
    mask: &'a [u32],
    past: &'a [u32],
}

/// Keys that a workgroup of `attention_step` takes at a time.
const STEP_BLOCK: usize = 64;

/// The work of a call with as many keys as there may be: products with each key, and sums of each value.
pub(super) fn work(dispatch: &Dispatch) -> Work {
    work_with(dispatch, 2)
}

/// As [`work`], where the product with a key is made again for each 32 elements of the head.
pub(super) fn work_of_rows(dispatch: &Dispatch) -> Work {
    work_with(dispatch, 1 + u64::from(dispatch.constant("HEAD_DIM").div_ceil(32)))
}

fn work_with(dispatch: &Dispatch, products: u64) -> Work {
    let p: Params = dispatch.params();
    let head_dim = u64::from(dispatch.constant("HEAD_DIM"));
    let multiply_adds = products * u64::from(p.count) * u64::from(p.capacity) * head_dim;
    Work { multiply_adds, bytes: dispatch.operand_bytes(), weight_bytes: 0 }
}

pub(super) fn reference(call: &Call) {
    let (mut out, q) = (call.f32_mut(0), call.f32(1));
    let (k, v, table, past, mask) = (call.u32(2), call.u32(3), call.u32(4), call.u32(5), call.u32(6));
    let p: Params = call.params();
    let cached = call.constant("CACHED") == 1;
    let operands = Operands {
        p,
        head_dim: call.constant("HEAD_DIM") as usize,
        cached,
        mask_code: call.constant("MASK"),
        table: &table,
        mask: &mask,
        past: &past,
    };
    let parts = call.dispatch.constants.iter().find(|(name, _)| *name == "PARTS").map_or(1, |(_, n)| *n as usize);
    let probabilities = call.dispatch.constants.contains(&("PROBABILITIES", 1.0));
    let (heads, rows, group) = (p.heads as usize, p.rows as usize, p.heads_per_key as usize);
    let (head_dim, width) = (operands.head_dim, p.out_width as usize);
    for b in 0..p.count as usize / heads / rows {
        for kv_head in 0..heads / group {
            let gather = |words: &[u32], operand: usize, width: u32, column: u32| -> Vec<f32> {
                let dtype = call.tensor(operand).dtype;
                let start = |t| operands.key_row(b, t) * width as usize + column as usize + kv_head * head_dim;
                let element = |i| read_float(words, dtype, i);
                (0..operands.keys(b)).flat_map(|t| (start(t)..start(t) + head_dim).map(element)).collect()
            };
            let k = gather(&k, 2, p.k_width, p.k_column);
            let v = gather(&v, 3, p.v_width, p.v_column);
            for (head, row) in (kv_head * group..(kv_head + 1) * group).flat_map(|h| (0..rows).map(move |s| (h, s))) {
                let scores = operands.scores(&q, &k, b, head, row);
                if parts > 1 {
                    let size = parts * (head_dim + 2);
                    write_parts(&scores, &v, parts, &mut out[(b * heads + head) * size..][..size]);
                    continue;
                }
                let weights = softmax(scores);
                if probabilities {
                    let to = &mut out[((b * heads + head) * rows + row) * width..][..width];
                    to[..weights.len()].copy_from_slice(&weights);
                    to[weights.len()..].fill(0.0);
                    continue;
                }
                let to = &mut out[((b * rows + row) * heads + head) * head_dim..][..head_dim];
                to.fill(0.0);
                for (w, value) in weights.iter().zip(v.chunks(head_dim)).filter(|(w, _)| **w != 0.0) {
                    to.iter_mut().zip(value).for_each(|(o, v)| *o += w * v);
                }
            }
        }
    }
}

/// Of each part of the keys: weighted values, relative to the part's highest score, this score, and the sum of the weights.
fn write_parts(scores: &[f32], values: &[f32], parts: usize, out: &mut [f32]) {
    let head_dim = out.len() / parts - 2;
    for (part, out) in out.chunks_mut(head_dim + 2).enumerate() {
        let own = |t: &usize| t / STEP_BLOCK % parts == part;
        let highest = (0..scores.len()).filter(own).map(|t| scores[t]).fold(f32::MIN, f32::max);
        out.fill(0.0);
        out[head_dim] = highest;
        for t in (0..scores.len()).filter(own) {
            let w = (scores[t] - highest).exp();
            out[head_dim + 1] += w;
            out.iter_mut().zip(&values[t * head_dim..][..head_dim]).for_each(|(o, v)| *o += w * v);
        }
    }
}

impl Operands<'_> {
    /// Keys of sequence `b` before this call's rows.
    fn before(&self, b: usize) -> usize {
        if self.cached { self.past[b * self.p.past_stride as usize] as usize } else { 0 }
    }

    /// All keys of sequence `b`.
    fn keys(&self, b: usize) -> usize {
        let capacity = self.p.capacity as usize;
        if self.cached { (self.before(b) + self.p.rows as usize).min(capacity) } else { capacity }
    }

    /// The row of keys and values that holds key `t` of sequence `b`.
    fn key_row(&self, b: usize, t: usize) -> usize {
        let capacity = self.p.capacity as usize;
        if self.cached {
            return self.table[b * capacity + t] as usize;
        }
        b % self.p.batches as usize * capacity + t
    }

    fn masked(&self, score: f32, b: usize, row: usize, t: usize) -> f32 {
        let (rows, width, zero_queries) =
            (self.p.rows as usize, self.p.mask_width as usize, self.p.zero_queries as usize);
        let blocked = match self.mask_code {
            0 => false,
            1 => t > self.before(b) + row,
            2 => t > self.before(b) + row || self.mask[b * width + t] == 0,
            _ => return (score + f32::from_bits(self.mask[(b * rows + row) * width + t])).max(f32::MIN),
        };
        let zero = row < zero_queries && t < zero_queries;
        if blocked && !zero { (score + f32::MIN).max(f32::MIN) } else { score }
    }

    /// The scores of all `keys` [keys, head_dim] for one row of `q` and one head, masked.
    fn scores(&self, q: &[f32], keys: &[f32], b: usize, head: usize, row: usize) -> Vec<f32> {
        let start = (b * self.p.rows as usize + row) * self.p.q_width as usize + self.p.q_column as usize;
        let query = &q[start + head * self.head_dim..][..self.head_dim];
        let query: Vec<f32> = query.iter().map(|x| x * self.p.scale).collect();
        let keys = keys.chunks(self.head_dim).enumerate();
        keys.map(|(t, key)| self.masked(dot(&query, key), b, row, t)).collect()
    }
}
