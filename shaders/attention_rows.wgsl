// As attention.wgsl, an invocation a (sequence, head, 32 elements of the head, row of q), for calls of many rows: there
// is nothing to share between lanes, so nothing waits. A key's score is made once for each 32 elements of the head.

override HEAD_DIM: u32 = 64u;
override CACHED: u32 = 0u;         // keys lie where table says; otherwise in rows one after another
override MASK: u32 = 0u;           // 0 none, 1 causal, 2 causal and mask of keys, 3 additive
override LANES: u32 = 64u;

struct Params {
    count: u32,         // batch * heads * rows
    heads: u32,
    rows: u32,
    heads_a_key: u32,   // heads / kv_heads
    q_width: u32,
    q_column: u32,
    k_width: u32,
    k_column: u32,
    v_width: u32,
    v_column: u32,
    capacity: u32,      // width of table, or number of keys
    batches: u32,
    mask_width: u32,
    zero_queries: u32,
    out_width: u32,     // of a row of probabilities
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [batch, rows, heads, HEAD_DIM]
@group(0) @binding(1) var<storage, read> q: array<f32>;          // [batch * rows, q_width]
@group(0) @binding(4) var<storage, read> table: array<u32>;      // [batch, capacity]
@group(0) @binding(5) var<storage, read> past: array<u32>;       // [1]
@group(0) @binding(6) var<storage, read> mask: array<u32>;       // [batch, mask_width], or f32 [batch, rows, mask_width]
@group(0) @binding(7) var<uniform> p: Params;

fn key_row(batch: u32, t: u32) -> u32 {
    if CACHED == 1u {
        return table[batch * p.capacity + t];
    }
    return batch % p.batches * p.capacity + t;
}

fn four_products(from_q: u32, from_k: u32) -> f32 {
    let a = vec4(q[from_q], q[from_q + 1u], q[from_q + 2u], q[from_q + 3u]);
    return dot(a * p.scale, key_four(from_k));
}

// The product of the query that starts at element `from_q` and the key that starts at `from_k`.
fn product(from_q: u32, from_k: u32) -> f32 {
    var sum = 0.0;
    var i = 0u;
    for (; i + 16u <= HEAD_DIM; i += 16u) {
        sum += four_products(from_q + i, from_k + i);
        sum += four_products(from_q + i + 4u, from_k + i + 4u);
        sum += four_products(from_q + i + 8u, from_k + i + 8u);
        sum += four_products(from_q + i + 12u, from_k + i + 12u);
    }
    for (; i < HEAD_DIM; i++) {
        sum += p.scale * q[from_q + i] * key_at(from_k + i);
    }
    return sum;
}

fn masked(score: f32, batch: u32, row: u32, t: u32, before: u32) -> f32 {
    if MASK == 0u {
        return score;
    }
    if MASK == 3u {
        let bits = mask[(batch * p.rows + row) * p.mask_width + t];
        // Negative infinity, which WGSL need not know, counts as LOWEST.
        if bits == 0xff800000u {
            return LOWEST;
        }
        return max(score + bitcast<f32>(bits), LOWEST);
    }
    var visible = t <= before + row;
    if MASK == 2u {
        visible = visible && mask[batch * p.mask_width + t] != 0u;
    }
    visible = visible || (row < p.zero_queries && t < p.zero_queries);
    return select(LOWEST, score, visible);
}

// exp of a number that is not positive; exactly 0 far down, whatever the adapter's exp does there.
fn weight(x: f32) -> f32 {
    return select(0.0, exp(x), x > -87.0);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let chunks = (HEAD_DIM + 31u) / 32u;
    let number = (group.x + group.y * GRID_X) * LANES + lane;
    if number >= p.count * chunks {
        return;
    }
    let row = number % p.rows;
    let first = number / p.rows % chunks * 32u;
    let head = number / p.rows / chunks % p.heads;
    let batch = number / p.rows / chunks / p.heads;
    let head_in_k = p.k_column + head / p.heads_a_key * HEAD_DIM;
    let head_in_v = p.v_column + head / p.heads_a_key * HEAD_DIM + first;
    let from_q = (batch * p.rows + row) * p.q_width + p.q_column + head * HEAD_DIM;
    var keys = p.capacity;
    var before = 0u;
    if CACHED == 1u {
        before = past[0];
        keys = min(before + p.rows, p.capacity);
    }
    // Keys from here on are blocked.
    var limit = keys;
    if MASK == 1u || MASK == 2u {
        limit = before + row + 1u;
        if row < p.zero_queries {
            limit = max(limit, p.zero_queries);
        }
        limit = min(limit, keys);
    }
    var accumulated: array<vec4<f32>, 8>;
    var highest = LOWEST;
    var sum = 0.0;
    for (var t = 0u; t < keys; t++) {
        if t >= limit && highest > LOWEST {
            break;
        }
        let at = key_row(batch, t);
        var score = LOWEST;
        if t < limit {
            score = masked(product(from_q, at * p.k_width + head_in_k), batch, row, t, before);
        }
        let new_highest = max(highest, score);
        let shrink = weight(highest - new_highest);
        let w = weight(score - new_highest);
        highest = new_highest;
        sum = sum * shrink + w;
        let from_v = at * p.v_width + head_in_v;
        // Behind the head's last four are others, or the last again: they are not written.
        let last = (HEAD_DIM - 1u - first) / 4u * 4u;
        for (var j = 0u; j < 8u; j++) {
            let four = value_four(from_v + min(4u * j, last));
            accumulated[j] = accumulated[j] * shrink + w * four;
        }
    }
    let to = ((batch * p.rows + row) * p.heads + head) * HEAD_DIM + first;
    for (var i = 0u; i < 32u && first + i < HEAD_DIM; i++) {
        out[to + i] = accumulated[i / 4u][i % 4u] / sum;
    }
}
