// out = softmax(scale q k^T + mask) v, a workgroup a (sequence, head, row of q). Scores, maxima and sums in f32; keys
// in blocks that fit workgroup memory, with a running maximum and sum (Milakov and Gimelshein, 2018).
// With PROBABILITIES, out is the softmax itself.
// A blocked score is exactly LOWEST; where all are, the weights of all keys are exp(0): the row attends uniformly.

#import shared/grid
#import shared/part
#import shared/floats
#import attention/common
#import attention/keys_in_{2}

override PROBABILITIES: u32 = 0u;
override BLOCK: u32 = 1024u;       // keys at a time, a multiple of LANES
override LANES: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [batch, rows, heads, HEAD_DIM], or [count, out_width]

var<workgroup> query: array<f32, HEAD_DIM>;
var<workgroup> weights: array<f32, BLOCK>;
var<workgroup> partial: array<f32, LANES>;

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

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = in_grid(group);
    let number = place.x + place.y * GRID_X;
    if number >= p.count {
        return;
    }
    let row = number % p.rows;
    let head = number / p.rows % p.heads;
    let batch = number / p.rows / p.heads;
    let head_in_k = p.k_column + head / p.heads_per_key * HEAD_DIM;
    let head_in_v = p.v_column + head / p.heads_per_key * HEAD_DIM;
    var keys = p.capacity;
    var before = 0u;
    if CACHED == 1u {
        before = past[batch * p.past_stride];
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
