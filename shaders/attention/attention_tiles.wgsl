// As attention.wgsl, for calls of many rows on GPUs: a workgroup 32 rows of q of a (sequence, head), 64 keys at a time.
//
// Queries and keys go to workgroup memory 32 elements of the head at a time, values 32 keys and 64 elements at a time, so
// that each is loaded once a workgroup and by whole lines of 128 bytes; scores are made once. An invocation keeps 4 x 4
// scores, and 4 rows x 4 elements of each 64 of the result, in registers: of every two loads from workgroup memory come 16
// multiply-adds. With 64 invocations and 32 keys, which took twice the registers for the result, Intel's compilers spilled
// and AMD's left room for 6 waves. Maxima and sums of the rows run along, as in attention.wgsl; the sums meet at the end.
// Scores, maxima and sums in f32.

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

// Rows of q, and keys, at a time.
const ROWS: u32 = 32u;
const KEYS: u32 = 64u;
// Elements of queries and keys, or values, that are multiplied at a time.
const DEPTH: u32 = 32u;
// Elements of values at a time.
const ELEMENTS: u32 = 64u;
const STEPS = vec4(0u, 1u, 2u, 3u);

// Elements of queries, four rows a vector; then weights of keys, four rows a vector.
var<workgroup> left: array<vec4<f32>, 512>;   // [DEPTH or KEYS, 8]
// Elements of keys, four keys a vector; then what the invocations of four rows exchange; then values, four elements a
// vector.
var<workgroup> right: array<vec4<f32>, 512>;  // [DEPTH, 16]

// Where vector `four` of row `i` of these stands: rows are turned, so that invocations beside each other use different
// banks, whether they go along a row or down.
fn at_left(i: u32, four: u32) -> u32 {
    return i * 8u + (four ^ (i % 8u));
}

fn at_right(i: u32, four: u32) -> u32 {
    return i * 16u + (four ^ (i % 8u));
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
    left[at_left(four, to)] = turned[0];
    left[at_left(8u + four, to)] = turned[1];
    left[at_left(16u + four, to)] = turned[2];
    left[at_left(24u + four, to)] = turned[3];
}

fn keep_turned_right(x: mat4x4<f32>, four: u32, to: u32) {
    let turned = transpose(x);
    right[at_right(four, to)] = turned[0];
    right[at_right(8u + four, to)] = turned[1];
    right[at_right(16u + four, to)] = turned[2];
    right[at_right(24u + four, to)] = turned[3];
}

// A column a component of a, a component one of b.
fn outer(a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(a.x * b, a.y * b, a.z * b, a.w * b);
}

// Adds products of four rows left, from row `first` there on, with four vectors right, over all that is there: a column a
// row.
fn add_products(to: mat4x4<f32>, first: u32, left_four: u32, right_four: u32) -> mat4x4<f32> {
    var sums = to;
    for (var i = 0u; i < DEPTH; i += 8u) {
        let l = 8u * (first + i);
        let r = 16u * i;
        sums += outer(left[l + (left_four ^ 0u)], right[r + (right_four ^ 0u)]);
        sums += outer(left[l + 8u + (left_four ^ 1u)], right[r + 16u + (right_four ^ 1u)]);
        sums += outer(left[l + 16u + (left_four ^ 2u)], right[r + 32u + (right_four ^ 2u)]);
        sums += outer(left[l + 24u + (left_four ^ 3u)], right[r + 48u + (right_four ^ 3u)]);
        sums += outer(left[l + 32u + (left_four ^ 4u)], right[r + 64u + (right_four ^ 4u)]);
        sums += outer(left[l + 40u + (left_four ^ 5u)], right[r + 80u + (right_four ^ 5u)]);
        sums += outer(left[l + 48u + (left_four ^ 6u)], right[r + 96u + (right_four ^ 6u)]);
        sums += outer(left[l + 56u + (left_four ^ 7u)], right[r + 112u + (right_four ^ 7u)]);
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
    place.first_row = number % row_tiles * ROWS;
    place.head = number / row_tiles % p.heads;
    place.batch = number / row_tiles / p.heads;
    let keys = keys_of(place.batch, place.first_row);
    place.before = keys.before;
    place.keys = keys.count;
    return place;
}

// Keys that any of the workgroup's rows sees. With a mask of keys a row may see none, and then attends to all.
fn seen_keys(place: Place) -> u32 {
    if MASK != 1u {
        return place.keys;
    }
    var limit = place.before + min(place.first_row + ROWS, p.rows);
    if place.first_row < p.zero_queries {
        limit = max(limit, p.zero_queries);
    }
    return min(limit, place.keys);
}

// Elements `first` .. of the workgroup's queries, to the left: half of the invocations four of four rows each.
fn fill_queries(place: Place, first: u32, lane: u32) {
    let i = first + 4u * (lane % 8u);
    let rows = min(vec4(place.first_row + 4u * (lane / 8u)) + STEPS, vec4(p.rows - 1u));
    let at = (place.batch * p.rows + rows) * p.q_width + p.q_column + place.head * HEAD_DIM + i;
    let is_there = i < HEAD_DIM;
    keep_turned_left(mat4x4(
        query_four(at.x, is_there),
        query_four(at.y, is_there),
        query_four(at.z, is_there),
        query_four(at.w, is_there),
    ), lane % 8u, lane / 8u);
}

// The same elements of the keys from `block` on, to the right: an invocation four of four keys.
fn fill_keys(place: Place, block: u32, first: u32, lane: u32) {
    let t = min(vec4(block + 4u * (lane / 8u)) + STEPS, vec4(place.keys - 1u));
    // Behind the head's end the queries are 0, whatever the keys are: the last again.
    let column = p.k_column + place.head / p.heads_per_key * HEAD_DIM + min(first + 4u * (lane % 8u), HEAD_DIM - 4u);
    keep_turned_right(mat4x4(
        key_four(key_row(place.batch, t.x), column),
        key_four(key_row(place.batch, t.y), column),
        key_four(key_row(place.batch, t.z), column),
        key_four(key_row(place.batch, t.w), column),
    ), lane % 8u, lane / 8u);
}

// Scores of four rows and four of the keys from `block` on: a column a key, a component a row.
fn scores_of(place: Place, block: u32, lane: u32) -> mat4x4<f32> {
    var scores = mat4x4<f32>();
    for (var first = 0u; first < HEAD_DIM; first += DEPTH) {
        workgroupBarrier();
        if lane < 64u {
            fill_queries(place, first, lane);
        }
        fill_keys(place, block, first, lane);
        workgroupBarrier();
        scores = add_products(scores, 0u, lane / 16u, lane % 16u);
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

// Adds the weighted values of the keys from `block` on, of which `seen` count and whose weights are left: elements
// `first` .. of the head, a column a row.
fn add_values(to: mat4x4<f32>, place: Place, block: u32, seen: u32, first: u32, lane: u32) -> mat4x4<f32> {
    let four = lane % 16u;
    let column = p.v_column + place.head / p.heads_per_key * HEAD_DIM + min(first + 4u * four, HEAD_DIM - 4u);
    var sums = to;
    for (var part = 0u; part < KEYS && block + part < seen; part += DEPTH) {
        workgroupBarrier();
        for (var i = lane / 16u; i < DEPTH; i += 8u) {
            let t = min(block + part + i, place.keys - 1u);
            right[at_right(i, four)] = value_four(key_row(place.batch, t), column);
        }
        workgroupBarrier();
        sums = add_products(sums, part, lane / 16u, four);
    }
    return sums;
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

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = in_grid(workgroup);
    let number = at.x + at.y * GRID_X;
    let row_tiles = (p.rows + ROWS - 1u) / ROWS;
    if number >= p.count / p.rows * row_tiles {
        return;
    }
    let place = place_of(number, row_tiles);
    let seen = seen_keys(place);
    let four = lane % 16u;
    let row_four = lane / 16u;
    let row = place.first_row + row_four * 4u;
    var result_a = mat4x4<f32>();   // elements 0 .. of the head, a column a row
    var result_b = mat4x4<f32>();   // elements 64 ..
    var highest = vec4(LOWEST);     // of each row
    var sum = vec4(0.0);            // of each row's weights of this invocation's keys
    for (var block = 0u; block < seen; block += KEYS) {
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
        for (var i = 0u; i < 16u; i++) {
            new_highest = max(new_highest, right[row_four * 16u + i]);
        }
        let shrink = weights(highest - new_highest);
        highest = new_highest;
        // Keys behind the last weigh nothing, even where all others are blocked.
        let w0 = select(vec4(0.0), weights(s0 - highest), t < place.keys);
        let w1 = select(vec4(0.0), weights(s1 - highest), t + 1u < place.keys);
        let w2 = select(vec4(0.0), weights(s2 - highest), t + 2u < place.keys);
        let w3 = select(vec4(0.0), weights(s3 - highest), t + 3u < place.keys);
        sum = sum * shrink + ((w0 + w1) + (w2 + w3));
        left[at_left(4u * four, row_four)] = w0;
        left[at_left(4u * four + 1u, row_four)] = w1;
        left[at_left(4u * four + 2u, row_four)] = w2;
        left[at_left(4u * four + 3u, row_four)] = w3;
        result_a = add_values(shrunk(result_a, shrink), place, block, seen, 0u, lane);
        if HEAD_DIM > ELEMENTS {
            result_b = add_values(shrunk(result_b, shrink), place, block, seen, ELEMENTS, lane);
        }
    }

    workgroupBarrier();
    right[lane] = sum;
    workgroupBarrier();
    var total = vec4(0.0);
    for (var i = 0u; i < 16u; i++) {
        total += right[row_four * 16u + i];
    }
    let by = vec4(1.0) / total;
    write_rows(place, row, 4u * four, shrunk(result_a, by));
    if HEAD_DIM > ELEMENTS {
        write_rows(place, row, ELEMENTS + 4u * four, shrunk(result_b, by));
    }
}
