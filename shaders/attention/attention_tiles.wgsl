// As attention.wgsl, for calls of many rows on GPUs: a workgroup 32 rows of q of a (sequence, head), 32 keys at a time.
//
// Keys, queries and values go to workgroup memory 32 elements of the head at a time, so that each is loaded once a
// workgroup and by whole lines of 128 bytes; scores are made once. An invocation keeps 4 x 4 scores, and 4 rows x 4
// elements of each 32 of the result, in registers: of every two loads from workgroup memory come 16 multiply-adds. Maxima
// and sums of the rows run along, as in attention.wgsl; the sums meet at the end. Scores, maxima and sums in f32.

#import shared/grid
#import shared/part
#import shared/floats
#import attention/common
#import attention/masks

override K_FORMAT: u32 = 0u;       // 0 f32, 1 f16: rows, columns and heads are whole 16-byte pieces
override V_FORMAT: u32 = 0u;       // the same

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [batch, rows, heads, HEAD_DIM]
@group(0) @binding(2) var<storage, read> k: array<vec4<u32>>;    // [_, k_width] f32 or f16
@group(0) @binding(3) var<storage, read> v: array<vec4<u32>>;    // [_, v_width] f32 or f16

// Rows, keys, and elements of a head at a time.
const SIDE: u32 = 32u;
const STEPS = vec4(0u, 1u, 2u, 3u);

// Elements of queries, four rows a vector; then weights of keys, four rows a vector.
var<workgroup> left: array<vec4<f32>, 256>;   // [SIDE, 8]
// Elements of keys, four keys a vector; then what the invocations of four rows exchange; then values, four elements a
// vector.
var<workgroup> right: array<vec4<f32>, 256>;  // [SIDE, 8]

// Where vector `four` of row `i` of these stands: rows are turned, so that invocations beside each other use different
// banks, whether they go along a row or down.
fn at_place(i: u32, four: u32) -> u32 {
    return i * 8u + (four ^ (i % 8u));
}

// Four elements of a key or value: of f16, half a piece.
fn key_four(row: u32, column: u32) -> vec4<f32> {
    let at = row * p.k_width + column;
    return unpacked(k[at / (4u + 4u * K_FORMAT)], K_FORMAT, at);
}

fn value_four(row: u32, column: u32) -> vec4<f32> {
    let at = row * p.v_width + column;
    return unpacked(v[at / (4u + 4u * V_FORMAT)], V_FORMAT, at);
}

fn unpacked(piece: vec4<u32>, format: u32, at: u32) -> vec4<f32> {
    if format == 0u {
        return bitcast<vec4<f32>>(piece);
    }
    let words = select(piece.xy, piece.zw, at % 8u == 4u);
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Four elements from `at` on; zeros where the head has none.
fn query_four(at: u32, is_there: bool) -> vec4<f32> {
    if !is_there {
        return vec4(0.0);
    }
    return p.scale * vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
}

// Four vectors of 32 elements of the head, beside each other: element `4 four + i` at place `8 i + four`.
fn keep_turned_left(x: mat4x4<f32>, four: u32, to: u32) {
    let turned = transpose(x);
    left[at_place(four, to)] = turned[0];
    left[at_place(8u + four, to)] = turned[1];
    left[at_place(16u + four, to)] = turned[2];
    left[at_place(24u + four, to)] = turned[3];
}

fn keep_turned_right(x: mat4x4<f32>, four: u32, to: u32) {
    let turned = transpose(x);
    right[at_place(four, to)] = turned[0];
    right[at_place(8u + four, to)] = turned[1];
    right[at_place(16u + four, to)] = turned[2];
    right[at_place(24u + four, to)] = turned[3];
}

// A column a component of a, a component one of b.
fn outer(a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(a.x * b, a.y * b, a.z * b, a.w * b);
}

// Adds products of four rows left with four vectors right, over all that is in workgroup memory: a column a row.
fn add_products(to: mat4x4<f32>, left_four: u32, right_four: u32) -> mat4x4<f32> {
    var sums = to;
    for (var i = 0u; i < SIDE; i += 8u) {
        sums += outer(left[8u * i + 0u + (left_four ^ 0u)], right[8u * i + 0u + (right_four ^ 0u)]);
        sums += outer(left[8u * i + 8u + (left_four ^ 1u)], right[8u * i + 8u + (right_four ^ 1u)]);
        sums += outer(left[8u * i + 16u + (left_four ^ 2u)], right[8u * i + 16u + (right_four ^ 2u)]);
        sums += outer(left[8u * i + 24u + (left_four ^ 3u)], right[8u * i + 24u + (right_four ^ 3u)]);
        sums += outer(left[8u * i + 32u + (left_four ^ 4u)], right[8u * i + 32u + (right_four ^ 4u)]);
        sums += outer(left[8u * i + 40u + (left_four ^ 5u)], right[8u * i + 40u + (right_four ^ 5u)]);
        sums += outer(left[8u * i + 48u + (left_four ^ 6u)], right[8u * i + 48u + (right_four ^ 6u)]);
        sums += outer(left[8u * i + 56u + (left_four ^ 7u)], right[8u * i + 56u + (right_four ^ 7u)]);
    }
    return sums;
}

fn weights(x: vec4<f32>) -> vec4<f32> {
    return vec4(weight(x.x), weight(x.y), weight(x.z), weight(x.w));
}

// Where a workgroup stands, and what it reads.
struct Place {
    batch: u32,
    head: u32,
    first_row: u32,
    before: u32,   // keys before this call's
    keys: u32,
}

fn place_of(number: u32, row_tiles: u32) -> Place {
    var place: Place;
    place.first_row = number % row_tiles * SIDE;
    place.head = number / row_tiles % p.heads;
    place.batch = number / row_tiles / p.heads;
    place.before = 0u;
    place.keys = p.capacity;
    if CACHED == 1u {
        place.before = past[0];
        place.keys = min(place.before + p.rows, p.capacity);
    }
    return place;
}

// Keys that any of the workgroup's rows sees. With a mask of keys a row may see none, and then attends to all.
fn seen_keys(place: Place) -> u32 {
    if MASK != 1u {
        return place.keys;
    }
    var limit = place.before + min(place.first_row + SIDE, p.rows);
    if place.first_row < p.zero_queries {
        limit = max(limit, p.zero_queries);
    }
    return min(limit, place.keys);
}

// Scores of four rows and the four keys from `t` on: a column a key, a component a row.
fn scores_of(place: Place, block: u32, lane: u32) -> mat4x4<f32> {
    let four = lane % 8u;
    let other = lane / 8u;
    let rows = min(vec4(place.first_row + 4u * other) + STEPS, vec4(p.rows - 1u));
    let from_q = (place.batch * p.rows + rows) * p.q_width + p.q_column + place.head * HEAD_DIM;
    let t = min(vec4(block + 4u * other) + STEPS, vec4(place.keys - 1u));
    let key_rows = vec4(
        key_row(place.batch, t.x),
        key_row(place.batch, t.y),
        key_row(place.batch, t.z),
        key_row(place.batch, t.w),
    );
    let head_in_k = p.k_column + place.head / p.heads_per_key * HEAD_DIM;
    var scores = mat4x4<f32>();
    for (var first = 0u; first < HEAD_DIM; first += SIDE) {
        let i = first + 4u * four;
        let is_there = i < HEAD_DIM;
        // Behind the head's end the queries are 0, whatever the keys are: the last again.
        let column = head_in_k + min(i, HEAD_DIM - 4u);
        workgroupBarrier();
        keep_turned_left(mat4x4(
            query_four(from_q.x + i, is_there),
            query_four(from_q.y + i, is_there),
            query_four(from_q.z + i, is_there),
            query_four(from_q.w + i, is_there),
        ), four, other);
        keep_turned_right(mat4x4(
            key_four(key_rows.x, column),
            key_four(key_rows.y, column),
            key_four(key_rows.z, column),
            key_four(key_rows.w, column),
        ), four, other);
        workgroupBarrier();
        scores = add_products(scores, other, four);
    }
    return transpose(scores);
}

// The scores of a key, a component a row, masked.
fn masked_key(scores: vec4<f32>, place: Place, row: u32, t: u32) -> vec4<f32> {
    if t >= place.keys {
        return vec4(LOWEST);
    }
    if MASK == 0u {
        return scores;
    }
    let rows = min(vec4(row) + STEPS, vec4(p.rows - 1u));
    return vec4(
        masked(scores.x, place.batch, rows.x, t, place.before),
        masked(scores.y, place.batch, rows.y, t, place.before),
        masked(scores.z, place.batch, rows.z, t, place.before),
        masked(scores.w, place.batch, rows.w, t, place.before),
    );
}

// Adds the weighted values of a block of keys, whose weights are left: elements `first` .. of the head, a column a row.
fn add_values(to: mat4x4<f32>, place: Place, block: u32, first: u32, lane: u32) -> mat4x4<f32> {
    let head_in_v = p.v_column + place.head / p.heads_per_key * HEAD_DIM;
    workgroupBarrier();
    let four = lane % 8u;
    let column = head_in_v + min(first + 4u * four, HEAD_DIM - 4u);
    for (var i = lane / 8u; i < SIDE; i += 8u) {
        let t = min(block + i, place.keys - 1u);
        right[at_place(i, four)] = value_four(key_row(place.batch, t), column);
    }
    workgroupBarrier();
    return add_products(to, lane / 8u, four);
}

// A column a row.
fn shrunk(x: mat4x4<f32>, by: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(x[0] * by.x, x[1] * by.y, x[2] * by.z, x[3] * by.w);
}

fn write_four(at: u32, value: vec4<f32>) {
    out[at] = value.x;
    out[at + 1u] = value.y;
    out[at + 2u] = value.z;
    out[at + 3u] = value.w;
}

// Elements `element` .. of the rows from `row` on.
fn write_rows(place: Place, row: u32, element: u32, x: mat4x4<f32>) {
    if element >= HEAD_DIM {
        return;
    }
    let width = p.heads * HEAD_DIM;
    let at = (place.batch * p.rows + row) * width + place.head * HEAD_DIM + element;
    if row < p.rows {
        write_four(at, x[0]);
    }
    if row + 1u < p.rows {
        write_four(at + width, x[1]);
    }
    if row + 2u < p.rows {
        write_four(at + 2u * width, x[2]);
    }
    if row + 3u < p.rows {
        write_four(at + 3u * width, x[3]);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = in_grid(workgroup);
    let number = at.x + at.y * GRID_X;
    let row_tiles = (p.rows + SIDE - 1u) / SIDE;
    if number >= p.count / p.rows * row_tiles {
        return;
    }
    let place = place_of(number, row_tiles);
    let seen = seen_keys(place);
    let four = lane % 8u;
    let row = place.first_row + lane / 8u * 4u;
    var result_a = mat4x4<f32>();   // elements 0 .. of the head, a column a row
    var result_b = mat4x4<f32>();   // elements 32 ..
    var result_c = mat4x4<f32>();
    var result_d = mat4x4<f32>();
    var highest = vec4(LOWEST);     // of each row
    var sum = vec4(0.0);            // of each row's weights of this invocation's keys
    for (var block = 0u; block < seen; block += SIDE) {
        let scores = scores_of(place, block, lane);
        let t = block + 4u * four;
        let s0 = masked_key(scores[0], place, row, t);
        let s1 = masked_key(scores[1], place, row, t + 1u);
        let s2 = masked_key(scores[2], place, row, t + 2u);
        let s3 = masked_key(scores[3], place, row, t + 3u);
        workgroupBarrier();
        right[lane] = max(max(s0, s1), max(s2, s3));
        workgroupBarrier();
        var new_highest = highest;
        for (var i = 0u; i < 8u; i++) {
            new_highest = max(new_highest, right[lane / 8u * 8u + i]);
        }
        let shrink = weights(highest - new_highest);
        highest = new_highest;
        // Keys behind the last weigh nothing, even where all others are blocked.
        let w0 = select(vec4(0.0), weights(s0 - highest), t < place.keys);
        let w1 = select(vec4(0.0), weights(s1 - highest), t + 1u < place.keys);
        let w2 = select(vec4(0.0), weights(s2 - highest), t + 2u < place.keys);
        let w3 = select(vec4(0.0), weights(s3 - highest), t + 3u < place.keys);
        sum = sum * shrink + ((w0 + w1) + (w2 + w3));
        left[at_place(4u * four, lane / 8u)] = w0;
        left[at_place(4u * four + 1u, lane / 8u)] = w1;
        left[at_place(4u * four + 2u, lane / 8u)] = w2;
        left[at_place(4u * four + 3u, lane / 8u)] = w3;
        result_a = add_values(shrunk(result_a, shrink), place, block, 0u, lane);
        if HEAD_DIM > 32u {
            result_b = add_values(shrunk(result_b, shrink), place, block, 32u, lane);
        }
        if HEAD_DIM > 64u {
            result_c = add_values(shrunk(result_c, shrink), place, block, 64u, lane);
        }
        if HEAD_DIM > 96u {
            result_d = add_values(shrunk(result_d, shrink), place, block, 96u, lane);
        }
    }

    workgroupBarrier();
    right[lane] = sum;
    workgroupBarrier();
    var total = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        total += right[lane / 8u * 8u + i];
    }
    let by = vec4(1.0) / total;
    write_rows(place, row, 4u * four, shrunk(result_a, by));
    if HEAD_DIM > 32u {
        write_rows(place, row, 32u + 4u * four, shrunk(result_b, by));
    }
    if HEAD_DIM > 64u {
        write_rows(place, row, 64u + 4u * four, shrunk(result_c, by));
    }
    if HEAD_DIM > 96u {
        write_rows(place, row, 96u + 4u * four, shrunk(result_d, by));
    }
}
