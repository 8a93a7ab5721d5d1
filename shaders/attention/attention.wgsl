// out = softmax(scale q k^T + mask) v, a workgroup a (sequence, head, row of q). Scores, maxima and sums in f32; keys
// in blocks that fit workgroup memory, with a running maximum and sum (Milakov and Gimelshein, 2018).
// With PROBABILITIES, out is the softmax itself.
// A blocked score is exactly LOWEST; where all are, the weights of all keys are exp(0): the row attends uniformly.

#import shared/grid
#import shared/part
#import shared/floats
#import attention/common
#import attention/masks
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

// Where a workgroup stands: the same for all its invocations, which barriers count on.
struct Place {
    number: u32,
    batch: u32,
    head: u32,
    row: u32,
}

fn place_of(number: u32) -> Place {
    return Place(number, number / p.rows / p.heads, number / p.rows % p.heads, number % p.rows);
}

// Puts the scores of the keys from `block` to `end` into `weights`, and into out where those are asked for; returns the
// highest of this lane.
fn put_scores(place: Place, lane: u32, keys: Keys, block: u32, end: u32) -> f32 {
    let head_in_k = p.k_column + place.head / p.heads_per_key * HEAD_DIM;
    var highest = LOWEST;
    // Lanes behind the last key work on it again: software adapters are fast only while all lanes go one way.
    for (var base = block; base < end; base += LANES) {
        let t = min(base + lane, end - 1u);
        var score = LOWEST;
        if base < keys.limit {
            let product = product(key_row(place.batch, t) * p.k_width + head_in_k);
            score = masked(product, place.batch, place.row, t, keys.before);
        }
        highest = max(highest, score);
        weights[base - block + lane] = score;
        if PROBABILITIES == 1u && base + lane < end {
            out[place.number * p.out_width + t] = score;
        }
    }
    return highest;
}

// The highest of all lanes' numbers.
fn highest_of(x: f32, lane: u32) -> f32 {
    partial[lane] = x;
    workgroupBarrier();
    var highest = LOWEST;
    for (var i = 0u; i < LANES; i++) {
        highest = max(highest, partial[i]);
    }
    return highest;
}

// Makes weights of the scores; returns the sum of this lane's.
fn weigh(lane: u32, block: u32, end: u32, highest: f32) -> f32 {
    var sum = 0.0;
    for (var base = block; base < end; base += LANES) {
        let w = weight(weights[base - block + lane] - highest);
        if base + lane < end {
            sum += w;
        }
        weights[base - block + lane] = w;
    }
    return sum;
}

// Scores become probabilities; there are none behind the last key.
fn put_probabilities(number: u32, lane: u32, keys: u32, highest: f32, sum: f32) {
    let to_row = number * p.out_width;
    for (var t = lane; t < keys; t += LANES) {
        out[to_row + t] = weight(out[to_row + t] - highest) / sum;
    }
    for (var t = keys + lane; t < p.out_width; t += LANES) {
        out[to_row + t] = 0.0;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let in_group = in_grid(group);
    let number = in_group.x + in_group.y * GRID_X;
    if number >= p.count {
        return;
    }
    let place = place_of(number);
    let keys = keys_of(place.batch, place.row);
    let from_q = (place.batch * p.rows + place.row) * p.q_width + p.q_column + place.head * HEAD_DIM;
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        query[i] = p.scale * q[from_q + i];
    }
    workgroupBarrier();

    let head_in_v = p.v_column + place.head / p.heads_per_key * HEAD_DIM;
    var accumulated = array<f32, 4>(0.0, 0.0, 0.0, 0.0);   // elements lane, lane + LANES, ... of the head
    var highest = LOWEST;
    var sum = 0.0;   // of this lane's weights
    for (var block = 0u; block < keys.count; block += BLOCK) {
        let end = min(block + BLOCK, keys.count);
        let new_highest = max(highest, highest_of(put_scores(place, lane, keys, block, end), lane));
        let shrink = weight(highest - new_highest);
        highest = new_highest;
        sum = sum * shrink + weigh(lane, block, end, highest);
        workgroupBarrier();
        if PROBABILITIES == 0u {
            let seen = select(end, min(end, keys.limit), highest > LOWEST);
            for (var j = 0u; j * LANES < HEAD_DIM; j++) {
                let column = head_in_v + min(lane + j * LANES, HEAD_DIM - 1u);
                var total = accumulated[j] * shrink;
                for (var t = block; t < seen; t++) {
                    total += weights[t - block] * value_at(key_row(place.batch, t) * p.v_width + column);
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
        put_probabilities(number, lane, keys.count, highest, sum);
        return;
    }
    let to = ((place.batch * p.rows + place.row) * p.heads + place.head) * HEAD_DIM;
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        out[to + i] = accumulated[i / LANES] / sum;
    }
}
