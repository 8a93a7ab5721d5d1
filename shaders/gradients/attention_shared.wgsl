// What the kernels of attention's gradient share: parameters, the operands that all of them read, masks, probabilities.
// Keys of sequence b are rows (b % batches) * keys ..: several sequences may share some.
// Gives: HEAD_DIM, p, q, k, v, query_start, key_start, value_start, result_start, score_of, mask.

#import attention/masks

override HEAD_DIM: u32 = 64u;

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
