//! The gradient of attention. With `Z = scale q k^T + M`, `P = softmax(Z)`, `o = P v` and `delta` the sum of `do * o` of a
//! row and head: `dv = P^T do`, `dZ = P (do v^T - delta)`, `dq = scale dZ k`, `dk = scale dZ^T q`. A blocked entry has
//! `dZ = 0`; a row whose keys are all blocked attends to all alike, so that dv gets its share of it.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::attention::{Attention, Keys, Mask};
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static STATS: Kernel = kernel!("gradients", "attention_stats", Params, stats_reference);
static QUERIES: Kernel = kernel!("gradients", "attention_queries", Params, queries_reference);
static KEYS_VALUES: Kernel = kernel!("gradients", "attention_keys_values", Params, keys_values_reference);

uniform! {
    struct Params {
        batch: u32,
        heads: u32,
        rows: u32,
        heads_per_key: u32,
        q_width: u32,
        q_column: u32,
        k_width: u32,
        k_column: u32,
        v_width: u32,
        v_column: u32,
        keys: u32,
        batches: u32,
        mask_width: u32,
        zero_queries: u32,
        scale: f32,
    }
}

/// What attention took, in buffers and f32, with keys in rows.
#[derive(Clone, Copy)]
struct Given {
    params: Params,
    constants: [(&'static str, f64); 3],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
}

/// Gradients of attention's operands.
#[derive(Clone, Copy, Debug)]
pub struct AttentionGradient {
    /// [batch * rows, heads * head_dim]
    pub dq: Tensor,
    /// [batches * keys, 2 * kv_heads * head_dim]: those of the keys, then those of the values.
    pub dkv: Tensor,
}

/// From `o`, which [`attention`](crate::ops::attention::attention) returned, and its gradient `d_o`, both [batch * rows,
/// heads * head_dim].
pub fn attention_gradient(r: &mut Recording, attention: Attention, o: Tensor, d_o: Tensor) -> AttentionGradient {
    let (given, stats) = statistics(r, attention, o, d_o);
    let dq = given.queries(r, d_o, stats);
    let Params { batches, keys, heads, heads_per_key, .. } = given.params;
    let width = 2 * (heads / heads_per_key) as usize * attention.heads.head_dim;
    let dkv = r.scratch_f32(&[(batches * keys) as usize, width]);
    let operands = [write(dkv), read(given.q), read(given.k), read(given.v), read(given.mask), read(d_o), read(stats)];
    let count = (batches * keys * heads / heads_per_key) as usize;
    r.dispatch(&KEYS_VALUES, &given.constants, &operands, given.params, grid(count));
    AttentionGradient { dq, dkv }
}

/// The queries' gradient alone, where nothing is trained behind the keys and values.
pub fn query_gradient(r: &mut Recording, attention: Attention, o: Tensor, d_o: Tensor) -> Tensor {
    let (given, stats) = statistics(r, attention, o, d_o);
    given.queries(r, d_o, stats)
}

/// The call as the kernels take it, and [batch, heads, rows, 3]: highest score, sum and delta.
fn statistics(r: &mut Recording, attention: Attention, o: Tensor, d_o: Tensor) -> (Given, Tensor) {
    let given = Given::of(attention);
    let Attention { batch, rows, heads, .. } = attention;
    for tensor in [o, d_o] {
        let shape = (tensor.rows(), tensor.width());
        assert_eq!(shape, (batch * rows, heads.q_width()), "attention_gradient: {tensor:?}");
    }
    let count = batch * heads.heads * rows;
    let stats = r.scratch_f32(&[count, 3]);
    let operands = [write(stats), read(given.q), read(given.k), read(given.v), read(given.mask), read(o), read(d_o)];
    r.dispatch(&STATS, &given.constants, &operands, given.params, grid(count));
    (given, stats)
}

impl Given {
    fn of(call: Attention) -> Given {
        let Attention { batch, rows, heads, q, k, v, keys, mask, scale, .. } = call;
        let Keys::Rows { count, batches } = keys else { panic!("attention_gradient: keys of a cache's table") };
        assert!(batch.is_multiple_of(batches), "attention_gradient: {batch} sequences over the keys of {batches}");
        for view in [q, k, v] {
            let plain = (view.tensor.dtype, view.tensor.storage) == (DType::F32, Storage::Buffer);
            assert!(plain, "attention_gradient: {view:?} is no f32 in a buffer");
        }
        let (mask_code, mask, zero_queries) = match mask {
            Mask::None => (0, None, 0),
            Mask::Causal { attention_mask: None, zero_queries } => (1, None, zero_queries),
            Mask::Causal { attention_mask, zero_queries } => (2, attention_mask, zero_queries),
            Mask::Additive(tensor) => (3, Some(tensor), 0),
        };
        let params = Params {
            batch: batch as u32,
            heads: heads.heads as u32,
            rows: rows as u32,
            heads_per_key: (heads.heads / heads.kv_heads) as u32,
            q_width: q.tensor.width() as u32,
            q_column: q.column as u32,
            k_width: k.tensor.width() as u32,
            k_column: k.column as u32,
            v_width: v.tensor.width() as u32,
            v_column: v.column as u32,
            keys: count as u32,
            batches: batches as u32,
            mask_width: mask.map_or(0, |mask| mask.width() as u32),
            zero_queries: zero_queries as u32,
            scale,
        };
        let constants = [("HEAD_DIM", heads.head_dim as f64), ("MASK", f64::from(mask_code)), ("LANES", LANES as f64)];
        // A mask that is not there is never read.
        Given { params, constants, q: q.tensor, k: k.tensor, v: v.tensor, mask: mask.unwrap_or(q.tensor) }
    }

    fn queries(&self, r: &mut Recording, d_o: Tensor, stats: Tensor) -> Tensor {
        let dq = r.scratch_f32(d_o.shape());
        let operands = [write(dq), read(self.q), read(self.k), read(self.v), read(self.mask), read(d_o), read(stats)];
        let Params { batch, heads, rows, .. } = self.params;
        r.dispatch(&QUERIES, &self.constants, &operands, self.params, grid((batch * heads * rows) as usize));
        dq
    }
}

/// One call's operands, for the references.
struct Operands<'a> {
    p: Params,
    head_dim: usize,
    mask_code: u32,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: &'a [u32],
}

/// A query: its sequence, head and row.
type Query = (usize, usize, usize);

impl<'a> Operands<'a> {
    fn head(&self, values: &'a [f32], start: usize) -> &'a [f32] {
        &values[start..start + self.head_dim]
    }

    fn query(&self, (batch, head, row): Query) -> &'a [f32] {
        let p = &self.p;
        let start = (batch * p.rows as usize + row) * p.q_width as usize + p.q_column as usize;
        self.head(self.q, start + head * self.head_dim)
    }

    fn of_key(&self, values: &'a [f32], width: u32, column: u32, (batch, head, _): Query, t: usize) -> &'a [f32] {
        let row = batch % self.p.batches as usize * self.p.keys as usize + t;
        let head = head / self.p.heads_per_key as usize;
        self.head(values, row * width as usize + column as usize + head * self.head_dim)
    }

    fn key(&self, query: Query, t: usize) -> &'a [f32] {
        self.of_key(self.k, self.p.k_width, self.p.k_column, query, t)
    }

    fn value(&self, query: Query, t: usize) -> &'a [f32] {
        self.of_key(self.v, self.p.v_width, self.p.v_column, query, t)
    }

    /// Where a query's head begins in attention's result.
    fn result(&self, (batch, head, row): Query) -> usize {
        ((batch * self.p.rows as usize + row) * self.p.heads as usize + head) * self.head_dim
    }

    fn stats_of(&self, stats: &[f32], (batch, head, row): Query) -> [f64; 3] {
        let at = 3 * ((batch * self.p.heads as usize + head) * self.p.rows as usize + row);
        [stats[at], stats[at + 1], stats[at + 2]].map(f64::from)
    }

    /// The score, or the lowest f32 where the key is blocked.
    fn score(&self, query: Query, t: usize) -> f64 {
        let (batch, _, row) = query;
        let score = f64::from(self.p.scale) * dot(self.query(query), self.key(query, t));
        let width = self.p.mask_width as usize;
        let zero = self.p.zero_queries as usize;
        let lowest = f64::from(f32::MIN);
        let visible = match self.mask_code {
            0 => true,
            1 => t <= row,
            2 => t <= row && self.mask[batch * width + t] != 0,
            _ => {
                let mask = f32::from_bits(self.mask[(batch * self.p.rows as usize + row) * width + t]);
                return (score + f64::from(mask)).max(lowest);
            }
        };
        if visible || (row < zero && t < zero) { score } else { lowest }
    }

    /// P and dZ of a key in a query's row.
    fn entry(&self, query: Query, t: usize, stats: &[f32], d_o: &[f32]) -> (f64, f64) {
        let [highest, sum, delta] = self.stats_of(stats, query);
        let score = self.score(query, t);
        let p = (score - highest).exp() / sum;
        if score <= f64::from(f32::MIN) {
            return (p, 0.0);
        }
        let product = dot(&d_o[self.result(query)..][..self.head_dim], self.value(query, t));
        (p, p * (product - delta))
    }

    fn queries(&self) -> impl Iterator<Item = Query> + use<> {
        let (batch, heads, rows) = (self.p.batch as usize, self.p.heads as usize, self.p.rows as usize);
        (0..batch).flat_map(move |b| (0..heads).flat_map(move |h| (0..rows).map(move |row| (b, h, row))))
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Calls `run` with what the three kernels take alike.
fn with_operands(call: &Call, run: impl FnOnce(&Operands)) {
    let (q, k, v, mask) = (call.f32(1), call.f32(2), call.f32(3), call.u32(4));
    let (head_dim, mask_code) = (call.constant("HEAD_DIM") as usize, call.constant("MASK"));
    run(&Operands { p: call.params(), head_dim, mask_code, q: &q, k: &k, v: &v, mask: &mask });
}

fn stats_reference(call: &Call) {
    let (mut stats, o, d_o) = (call.f32_mut(0), call.f32(5), call.f32(6));
    with_operands(call, |operands| {
        for (query, stats) in operands.queries().zip(stats.chunks_mut(3)) {
            let scores: Vec<f64> = (0..operands.p.keys as usize).map(|t| operands.score(query, t)).collect();
            let highest = scores.iter().copied().fold(f64::from(f32::MIN), f64::max);
            let at = operands.result(query);
            stats[0] = highest as f32;
            // Beside the rounded maximum, as every probability is.
            stats[1] = scores.iter().map(|s| (s - f64::from(stats[0])).exp()).sum::<f64>() as f32;
            stats[2] = dot(&o[at..at + operands.head_dim], &d_o[at..at + operands.head_dim]) as f32;
        }
    });
}

fn queries_reference(call: &Call) {
    let (mut dq, d_o, stats) = (call.f32_mut(0), call.f32(5), call.f32(6));
    with_operands(call, |operands| {
        for query in operands.queries() {
            let mut sums = vec![0.0f64; operands.head_dim];
            for t in 0..operands.p.keys as usize {
                let (_, dz) = operands.entry(query, t, &stats, &d_o);
                sums.iter_mut().zip(operands.key(query, t)).for_each(|(sum, k)| *sum += dz * f64::from(*k));
            }
            let dq = &mut dq[operands.result(query)..][..operands.head_dim];
            dq.iter_mut().zip(sums).for_each(|(dq, sum)| *dq = (f64::from(operands.p.scale) * sum) as f32);
        }
    });
}

fn keys_values_reference(call: &Call) {
    let (mut dkv, d_o, stats) = (call.f32_mut(0), call.f32(5), call.f32(6));
    with_operands(call, |operands| {
        let Params { heads, heads_per_key, batches, keys, scale, .. } = operands.p;
        let kv_width = (heads / heads_per_key) as usize * operands.head_dim;
        let mut sums = vec![0.0f64; (batches * keys) as usize * 2 * kv_width];
        for query in operands.queries() {
            let (batch, head, _) = query;
            for t in 0..keys as usize {
                let (p, dz) = operands.entry(query, t, &stats, &d_o);
                let row = batch % batches as usize * keys as usize + t;
                let at = row * 2 * kv_width + head / heads_per_key as usize * operands.head_dim;
                let d_o = &d_o[operands.result(query)..][..operands.head_dim];
                for (i, (q, g)) in operands.query(query).iter().zip(d_o).enumerate() {
                    sums[at + i] += f64::from(scale) * dz * f64::from(*q);
                    sums[at + kv_width + i] += p * f64::from(*g);
                }
            }
        }
        dkv.iter_mut().zip(sums).for_each(|(dkv, sum)| *dkv = sum as f32);
    });
}

pub(crate) static OP: Op =
    Op { name: "attention_gradient", kernels: &[&STATS, &QUERIES, &KEYS_VALUES], examples, trial: None };

fn examples(e: &mut Examples) {
    use crate::ops::attention::View;
    use crate::ops::attention::heads::Heads;
    let heads = Heads { heads: 8, kv_heads: 2, head_dim: 128 };
    let (batch, rows, keys) = (2, 5, 5);
    let (q, kv) = (e.f32(&[batch * rows, heads.q_width()]), e.f32(&[batch * keys, 2 * heads.kv_width()]));
    let (o, d_o) = (e.f32(&[batch * rows, heads.q_width()]), e.f32(&[batch * rows, heads.q_width()]));
    let padding = e.u32(&[batch, keys], Fill::Below(2));
    let additive = e.f32(&[batch, rows, keys]);
    let causal = |attention_mask| Mask::Causal { attention_mask, zero_queries: 3 };
    for mask in [Mask::None, causal(None), causal(Some(padding)), Mask::Additive(additive)] {
        let (k, v) = (View::all(kv), View { tensor: kv, column: heads.kv_width() });
        let (q, keys) = (View::all(q), Keys::Rows { count: keys, batches: batch });
        let a = Attention { batch, rows, heads, q, k, v, keys, mask, scale: 0.1, probabilities: None };
        attention_gradient(&mut e.recording, a, o, d_o);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Pool;
    use crate::ops::attention::heads::Heads;
    use crate::ops::attention::{View, attention};
    use crate::ops::gradients::differences::agree;
    use crate::ops::testing::{Random, compare, keep};

    /// Additive masks with blocked entries, and in the last sequence a row that sees nothing.
    fn mask(code: u32, pool: &mut Pool, random: &mut Random, batch: usize, rows: usize, keys: usize) -> Mask {
        match code {
            0 => Mask::None,
            1 => Mask::Causal { attention_mask: None, zero_queries: rows / 2 },
            2 => {
                let kept: Vec<u32> = (0..batch * keys).map(|_| random.below(2)).collect();
                Mask::Causal { attention_mask: Some(pool.u32(&[batch, keys], &kept).unwrap()), zero_queries: rows / 3 }
            }
            _ => {
                let mut values = random.f32s(batch * rows * keys);
                values.iter_mut().step_by(3).for_each(|m| *m = f32::MIN);
                let nothing = (batch * rows - 1) * keys;
                values[nothing..].fill(f32::MIN);
                Mask::Additive(pool.f32(&[batch, rows, keys], &values).unwrap())
            }
        }
    }

    #[test]
    fn gpu_equals_reference() {
        for (batch, batches, rows, keys, heads, kv_heads, head_dim) in [
            (1, 1, 9, 9, 1, 1, 1),
            (2, 2, 7, 7, 6, 2, 20),
            (4, 2, 5, 70, 3, 3, 33),
            (3, 1, 66, 66, 2, 1, 130),
            (2, 1, 3, 257, 4, 4, 64),
        ] {
            for code in 0..4 {
                if (code == 1 || code == 2) && rows != keys {
                    continue;
                }
                let case = format!("{batch} {batches} {rows} {keys} {heads} {kv_heads} {head_dim} {code}");
                compare(&case, 1e-10, |pool, r, random| {
                    let heads = Heads { heads, kv_heads, head_dim };
                    let mut wide =
                        |rows: usize, width: usize| pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                    let q = wide(batch * rows, heads.q_width() + 3);
                    let kv = wide(batches * keys, 2 * heads.kv_width() + 5);
                    let d_o = wide(batch * rows, heads.q_width());
                    let mask = mask(code, pool, random, batch, rows, keys);
                    let (q, k) = (View { tensor: q, column: 2 }, View { tensor: kv, column: 1 });
                    let v = View { tensor: kv, column: heads.kv_width() + 4 };
                    let keys = Keys::Rows { count: keys, batches };
                    let scale = heads.scale();
                    let a = Attention { batch, rows, heads, q, k, v, keys, mask, scale, probabilities: None };
                    let o = attention(r, a);
                    let AttentionGradient { dq, dkv } = attention_gradient(r, a, o, d_o);
                    vec![keep(pool, r, dq), keep(pool, r, dkv)]
                });
            }
        }
    }

    #[test]
    fn is_the_derivative() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 6 };
        let (batch, rows, count) = (4, 3, 5);
        let call = |inputs: &[Tensor]| {
            let (q, k, v) = (View::all(inputs[0]), View::all(inputs[1]), View::all(inputs[2]));
            let keys = Keys::Rows { count, batches: 2 };
            Attention { batch, rows, heads, q, k, v, keys, mask: Mask::None, scale: 0.4, probabilities: None }
        };
        agree(
            "attention",
            &[(&[12, 24], 1.0), (&[10, 12], 1.0), (&[10, 12], 1.0)],
            |r, inputs| attention(r, call(inputs)),
            |r, inputs, d_o| {
                use crate::ops::gradients::put_columns::put_columns;
                let o = attention(r, call(inputs));
                let AttentionGradient { dq, dkv } = attention_gradient(r, call(inputs), o, d_o);
                let (dk, dv) = (r.scratch_f32(&[10, 12]), r.scratch_f32(&[10, 12]));
                put_columns(r, View::all(dkv), 12, View::all(dk));
                put_columns(r, View { tensor: dkv, column: 12 }, 12, View::all(dv));
                vec![dq, dk, dv]
            },
        );
    }
}
