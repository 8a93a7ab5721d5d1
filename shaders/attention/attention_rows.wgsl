// As attention.wgsl, an invocation a (sequence, head, 32 elements of the head, row of q), for calls of many rows: there
// is nothing to share between lanes, so nothing waits. A key's score is made once for each 32 elements of the head.

#import shared/grid
#import shared/part
#import shared/floats
#import attention/common
#import attention/masks
#import attention/keys_in_{2}

override LANES: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [batch, rows, heads, HEAD_DIM]

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

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let chunks = (HEAD_DIM + 31u) / 32u;
    let place = in_grid(group);
    let number = (place.x + place.y * GRID_X) * LANES + lane;
    if number >= p.count * chunks {
        return;
    }
    let row = number % p.rows;
    let first = number / p.rows % chunks * 32u;
    let head = number / p.rows / chunks % p.heads;
    let batch = number / p.rows / chunks / p.heads;
    let head_in_k = p.k_column + head / p.heads_per_key * HEAD_DIM;
    let head_in_v = p.v_column + head / p.heads_per_key * HEAD_DIM + first;
    let from_q = (batch * p.rows + row) * p.q_width + p.q_column + head * HEAD_DIM;
    let keys = keys_of(batch, row);
    var accumulated: array<vec4<f32>, 8>;
    var highest = LOWEST;
    var sum = 0.0;
    for (var t = 0u; t < keys.count; t++) {
        if t >= keys.limit && highest > LOWEST {
            break;
        }
        let at = key_row(batch, t);
        var score = LOWEST;
        if t < keys.limit {
            score = masked(product(from_q, at * p.k_width + head_in_k), batch, row, t, keys.before);
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
