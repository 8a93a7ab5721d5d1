// out = softmax(scale q k^T + mask) v, a workgroup a (sequence, head, row of q). Scores, maxima and sums in f32; keys
// in blocks that fit workgroup memory, with a running maximum and sum (Milakov and Gimelshein, 2018).
// With PROBABILITIES, out is the softmax itself.
// A blocked score is exactly LOWEST; where all are, the weights of all keys are exp(0): the row attends uniformly.

override HEAD_DIM: u32 = 64u;
override CACHED: u32 = 0u;         // keys lie where table says; otherwise in rows one after another
override MASK: u32 = 0u;           // 0 none, 1 causal, 2 causal and mask of keys, 3 additive
override PROBABILITIES: u32 = 0u;
override BLOCK: u32 = 1024u;       // keys at a time, a multiple of LANES
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

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [batch, rows, heads, HEAD_DIM], or [count, out_width]
@group(0) @binding(1) var<storage, read> q: array<f32>;          // [batch * rows, q_width]
@group(0) @binding(4) var<storage, read> table: array<u32>;      // [batch, capacity]
@group(0) @binding(5) var<storage, read> past: array<u32>;       // [1]
@group(0) @binding(6) var<storage, read> mask: array<u32>;       // [batch, mask_width], or f32 [batch, rows, mask_width]
@group(0) @binding(7) var<uniform> p: Params;

var<workgroup> query: array<f32, HEAD_DIM>;
var<workgroup> weights: array<f32, BLOCK>;
var<workgroup> partial: array<f32, LANES>;

fn key_row(batch: u32, t: u32) -> u32 {
    if CACHED == 1u {
        return table[batch * p.capacity + t];
    }
    return batch % p.batches * p.capacity + t;
}

// The product of the query and the key that starts at element `start`.
fn product(start: u32) -> f32 {
    var sum = 0.0;
    var i = 0u;
    for (; i + 4u <= HEAD_DIM; i += 4u) {
        sum += dot(vec4(query[i], query[i + 1u], query[i + 2u], query[i + 3u]), key_four(start + i));
    }
    for (; i < HEAD_DIM; i++) {
        sum += query[i] * key_at(start + i);
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
    let number = group.x + group.y * GRID_X;
    if number >= p.count {
        return;
    }
    let row = number % p.rows;
    let head = number / p.rows % p.heads;
    let batch = number / p.rows / p.heads;
    let head_in_k = p.k_column + head / p.heads_a_key * HEAD_DIM;
    let head_in_v = p.v_column + head / p.heads_a_key * HEAD_DIM;
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

    for (var i = lane; i < HEAD_DIM; i += LANES) {
        query[i] = p.scale * q[(batch * p.rows + row) * p.q_width + p.q_column + head * HEAD_DIM + i];
    }
    workgroupBarrier();

    let to_row = number * p.out_width;
    var accumulated = array<f32, 4>(0.0, 0.0, 0.0, 0.0);   // elements lane, lane + LANES, ... of the head
    var highest = LOWEST;
    var sum = 0.0;   // of this lane's weights
    for (var block = 0u; block < keys; block += BLOCK) {
        let end = min(block + BLOCK, keys);
        var lane_highest = LOWEST;
        // Lanes behind the last key work on it again: software adapters are fast only while all lanes go one way.
        for (var base = block; base < end; base += LANES) {
            let t = min(base + lane, end - 1u);
            var score = LOWEST;
            if base < limit {
                score = masked(product(key_row(batch, t) * p.k_width + head_in_k), batch, row, t, before);
            }
            lane_highest = max(lane_highest, score);
            weights[base - block + lane] = score;
            if PROBABILITIES == 1u && base + lane < end {
                out[to_row + t] = score;
            }
        }
        partial[lane] = lane_highest;
        workgroupBarrier();
        var new_highest = highest;
        for (var i = 0u; i < LANES; i++) {
            new_highest = max(new_highest, partial[i]);
        }
        let shrink = weight(highest - new_highest);
        highest = new_highest;
        sum *= shrink;
        for (var base = block; base < end; base += LANES) {
            let w = weight(weights[base - block + lane] - highest);
            if base + lane < end {
                sum += w;
            }
            weights[base - block + lane] = w;
        }
        workgroupBarrier();
        if PROBABILITIES == 0u {
            var seen = end;
            if highest > LOWEST {
                seen = min(end, limit);
            }
            for (var j = 0u; j * LANES < HEAD_DIM; j++) {
                let column = head_in_v + min(lane + j * LANES, HEAD_DIM - 1u);
                var total = accumulated[j] * shrink;
                for (var t = block; t < seen; t++) {
                    total += weights[t - block] * value_at(key_row(batch, t) * p.v_width + column);
                }
                accumulated[j] = total;
            }
        }
        workgroupBarrier();
    }
    partial[lane] = sum;
    workgroupBarrier();
    sum = 0.0;
    for (var i = 0u; i < LANES; i++) {
        sum += partial[i];
    }
    if PROBABILITIES == 1u {
        for (var t = lane; t < keys; t += LANES) {
            out[to_row + t] = weight(out[to_row + t] - highest) / sum;
        }
        for (var t = keys + lane; t < p.out_width; t += LANES) {
            out[to_row + t] = 0.0;
        }
        return;
    }
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        out[((batch * p.rows + row) * p.heads + head) * HEAD_DIM + i] = accumulated[i / LANES] / sum;
    }
}
