// What the kernels of attention's gradient share: parameters, the operands that all of them read, masks, probabilities.
// Keys of sequence b are rows (b % batches) * keys ..: several sequences may share some.
// Gives: HEAD_DIM, MASK, p, q, k, v, query_start, key_start, value_start, result_start, score_of, masked, weight.

#import shared/floats

override HEAD_DIM: u32 = 64u;
override MASK: u32 = 0u;   // 0 none, 1 causal, 2 causal and mask of keys, 3 additive

struct Params {
    batch: u32,
    heads: u32,
    rows: u32,
    heads_per_key: u32,  // heads / kv_heads
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

@group(0) @binding(1) var<storage, read> q: array<f32>;     // [batch * rows, q_width]
@group(0) @binding(2) var<storage, read> k: array<f32>;     // [batches * keys, k_width]
@group(0) @binding(3) var<storage, read> v: array<f32>;     // [batches * keys, v_width]
@group(0) @binding(4) var<storage, read> mask: array<u32>;  // [batch, mask_width], or f32 [batch, rows, mask_width]
@group(0) @binding(7) var<uniform> p: Params;

// Where the head of a query, a key and a value begins.
fn query_start(batch: u32, head: u32, row: u32) -> u32 {
    return (batch * p.rows + row) * p.q_width + p.q_column + head * HEAD_DIM;
}

fn key_start(batch: u32, head: u32, t: u32) -> u32 {
    return (batch % p.batches * p.keys + t) * p.k_width + p.k_column + head / p.heads_per_key * HEAD_DIM;
}

fn value_start(batch: u32, head: u32, t: u32) -> u32 {
    return (batch % p.batches * p.keys + t) * p.v_width + p.v_column + head / p.heads_per_key * HEAD_DIM;
}

// Where the head begins in rows of all heads, as attention returns them.
fn result_start(batch: u32, head: u32, row: u32) -> u32 {
    return ((batch * p.rows + row) * p.heads + head) * HEAD_DIM;
}

fn score_of(from_q: u32, from_k: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < HEAD_DIM; i++) {
        sum += p.scale * q[from_q + i] * k[from_k + i];
    }
    return sum;
}

// The score with the mask's part in it; LOWEST where the key is blocked.
fn masked(score: f32, batch: u32, row: u32, t: u32) -> f32 {
    if MASK == 0u {
        return score;
    }
    if MASK == 3u {
        let bits = mask[(batch * p.rows + row) * p.mask_width + t];
        if bits == 0xff800000u {
            return LOWEST;
        }
        return max(score + bitcast<f32>(bits), LOWEST);
    }
    var visible = t <= row;
    if MASK == 2u {
        visible = visible && mask[batch * p.mask_width + t] != 0u;
    }
    visible = visible || (row < p.zero_queries && t < p.zero_queries);
    return select(LOWEST, score, visible);
}

// exp of a number that is not positive; exactly 0 far down.
fn weight(x: f32) -> f32 {
    return select(0.0, exp(x), x > -87.0);
}
