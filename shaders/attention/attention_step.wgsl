// As attention.wgsl for one row of q a sequence, as each step of generation has it: a workgroup a (sequence, head), or one
// of PARTS that share its keys. Then out has, of each part, sums that are not divided yet, and what attention_join.wgsl
// needs to join them: the highest score, and the sum of the weights beside it.
//
// attention.wgsl loads, for each element of a key, that and the query's from workgroup memory, and for each element of a
// value, that, its row of the table and its weight: five loads for two multiply-adds. Software adapters wait for every
// load of every lane, and they are what a step at a thousand keys cost: 77 ms for 32 heads of 128 at 1500 keys in f32 on
// Mesa's, which became 17 ms (12 ms in f16). Here, in the order of what it bought:
// - eight lanes share a key, and each keeps its share of the query and of the result (at most 16 elements) in registers:
//   five loads become two and a few;
// - groups of eight lanes have running maxima and sums of their own, joined once at the end: two barriers for 64 keys
//   instead of three, and no maximum over all lanes;
// - keys and values are loaded as 16 bytes, eight lanes beside each other: whole cache lines for GPUs.

#import shared/grid
#import shared/part
#import shared/floats
#import attention/common
#import attention/masks

override K_FORMAT: u32 = 0u;       // 0 f32, 1 f16: rows, columns and heads are whole 16-byte pieces
override V_FORMAT: u32 = 0u;       // the same
override PARTS: u32 = 1u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [batch, heads, HEAD_DIM], or [batch, heads, PARTS, HEAD_DIM + 2]
@group(0) @binding(2) var<storage, read> k: array<vec4<u32>>;    // [_, k_width] f32 or f16
@group(0) @binding(3) var<storage, read> v: array<vec4<u32>>;    // [_, v_width] f32 or f16

// Lane 8 g + s has share s of the keys that group g works on, and in each block of 64 keys the score of one key.
const SHARES: u32 = 8u;
const GROUPS: u32 = 8u;
const BLOCK: u32 = 64u;
// Of a share of products: one more than a block, so that lanes beside each other write to different banks.
const STRIDE: u32 = 65u;

var<workgroup> products: array<f32, 520>;        // [SHARES, STRIDE]
var<workgroup> scores: array<f32, 64>;           // [BLOCK]
var<workgroup> highests: array<f32, 8>;          // [GROUPS]
var<workgroup> sums: array<f32, 8>;              // [GROUPS]
var<workgroup> results: array<vec4<f32>, 256>;   // [GROUPS, 4, SHARES]

// A lane's share of a head: four elements each.
struct Share {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// Which four elements of the head part `i` of share `share` is: 16-byte pieces go round the lanes.
fn four(share: u32, i: u32) -> u32 {
    if K_FORMAT == 1u {
        return 2u * (share + SHARES * (i / 2u)) + i % 2u;
    }
    return share + SHARES * i;
}

fn unpack(piece: vec4<u32>) -> array<vec4<f32>, 2> {
    return array(
        vec4(unpack2x16float(piece.x), unpack2x16float(piece.y)),
        vec4(unpack2x16float(piece.z), unpack2x16float(piece.w)),
    );
}

// Shares behind the head's end are copies of its last piece: nothing is made of them.
fn piece_of(share: u32, i: u32) -> u32 {
    let pieces = select(HEAD_DIM / 4u, HEAD_DIM / 8u, K_FORMAT == 1u);
    return min(share + SHARES * i, pieces - 1u);
}

// A share of the key at piece `start`.
fn key_share(start: u32, share: u32) -> Share {
    var s: Share;
    let first = k[start + piece_of(share, 0u)];
    if K_FORMAT == 1u {
        let pair = unpack(first);
        s.a = pair[0];
        s.b = pair[1];
        if HEAD_DIM > 64u {
            let pair = unpack(k[start + piece_of(share, 1u)]);
            s.c = pair[0];
            s.d = pair[1];
        }
    } else {
        s.a = bitcast<vec4<f32>>(first);
        if HEAD_DIM > 32u {
            s.b = bitcast<vec4<f32>>(k[start + piece_of(share, 1u)]);
        }
        if HEAD_DIM > 64u {
            s.c = bitcast<vec4<f32>>(k[start + piece_of(share, 2u)]);
        }
        if HEAD_DIM > 96u {
            s.d = bitcast<vec4<f32>>(k[start + piece_of(share, 3u)]);
        }
    }
    return s;
}

// As key_share, of a value.
fn value_share(start: u32, share: u32) -> Share {
    var s: Share;
    let first = v[start + piece_of(share, 0u)];
    if V_FORMAT == 1u {
        let pair = unpack(first);
        s.a = pair[0];
        s.b = pair[1];
        if HEAD_DIM > 64u {
            let pair = unpack(v[start + piece_of(share, 1u)]);
            s.c = pair[0];
            s.d = pair[1];
        }
    } else {
        s.a = bitcast<vec4<f32>>(first);
        if HEAD_DIM > 32u {
            s.b = bitcast<vec4<f32>>(v[start + piece_of(share, 1u)]);
        }
        if HEAD_DIM > 64u {
            s.c = bitcast<vec4<f32>>(v[start + piece_of(share, 2u)]);
        }
        if HEAD_DIM > 96u {
            s.d = bitcast<vec4<f32>>(v[start + piece_of(share, 3u)]);
        }
    }
    return s;
}

// Part `i` of a share of the query that starts at element `start`: zeros behind the head's end.
fn query_part(start: u32, share: u32, i: u32) -> vec4<f32> {
    let element = 4u * four(share, i);
    if element >= HEAD_DIM {
        return vec4(0.0);
    }
    let at = start + element;
    return p.scale * vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
}

fn dot_of(x: Share, y: Share) -> f32 {
    var product = dot(x.a, y.a) + dot(x.b, y.b);
    if HEAD_DIM > 64u {
        product += dot(x.c, y.c) + dot(x.d, y.d);
    }
    return product;
}

fn scaled(x: Share, by: f32) -> Share {
    return Share(x.a * by, x.b * by, x.c * by, x.d * by);
}

// x + by * y
fn add_weighted(x: Share, by: f32, y: Share) -> Share {
    var sum = x;
    sum.a += by * y.a;
    sum.b += by * y.b;
    if HEAD_DIM > 64u {
        sum.c += by * y.c;
        sum.d += by * y.d;
    }
    return sum;
}

// A store into a component of a vector may touch all of it, so lanes store into an array.
fn four_scores(at: u32) -> vec4<f32> {
    return vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}

fn largest(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

fn put_four(to: u32, value: vec4<f32>) {
    out[to] = value.x;
    out[to + 1u] = value.y;
    out[to + 2u] = value.z;
    out[to + 3u] = value.w;
}

// Joins what the groups found, half of the lanes a share's part each.
fn join_groups(number: u32, lane: u32) {
    let element = 4u * four(lane % SHARES, lane / SHARES);
    if lane / SHARES >= 4u || element >= HEAD_DIM {
        return;
    }
    var most = LOWEST;
    for (var g = 0u; g < GROUPS; g++) {
        most = max(most, highests[g]);
    }
    var total = vec4(0.0);
    var weights = 0.0;
    for (var g = 0u; g < GROUPS; g++) {
        let w = weight(highests[g] - most);
        weights += w * sums[g];
        total += w * results[g * 4u * SHARES + lane];
    }
    if PARTS > 1u {
        if lane == 0u {
            out[number * (HEAD_DIM + 2u) + HEAD_DIM] = most;
            out[number * (HEAD_DIM + 2u) + HEAD_DIM + 1u] = weights;
        }
        put_four(number * (HEAD_DIM + 2u) + element, total);
    } else {
        put_four(number * HEAD_DIM + element, total / weights);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = in_grid(workgroup);
    let number = place.x + place.y * GRID_X;
    if number >= p.count * PARTS {
        return;
    }
    let strip = number % PARTS;
    let head = number / PARTS % p.heads;
    let batch = number / PARTS / p.heads;
    let piece = select(4u, 8u, K_FORMAT == 1u);
    let head_in_k = (p.k_column + head / p.heads_per_key * HEAD_DIM) / piece;
    let head_in_v = (p.v_column + head / p.heads_per_key * HEAD_DIM) / piece;
    let k_pieces = p.k_width / piece;
    let v_pieces = p.v_width / piece;
    let keys = keys_of(batch, 0u);
    let group = lane / SHARES;
    let share = lane % SHARES;
    let from_q = batch * p.q_width + p.q_column + head * HEAD_DIM;
    let query = Share(
        query_part(from_q, share, 0u),
        query_part(from_q, share, 1u),
        query_part(from_q, share, 2u),
        query_part(from_q, share, 3u),
    );

    var result = Share(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
    var highest = LOWEST;   // of this group's scores
    var sum = 0.0;          // of this group's weights
    for (var block = strip * BLOCK; block < keys.count; block += PARTS * BLOCK) {
        let first = block + group * SHARES;
        let end = min(first + SHARES, keys.count);
        for (var t = first; t < end; t++) {
            let x = key_share(key_row(batch, t) * k_pieces + head_in_k, share);
            products[share * STRIDE + t - block] = dot_of(query, x);
        }
        workgroupBarrier();
        var score = LOWEST;
        if block + lane < keys.count {
            score = 0.0;
            for (var i = 0u; i < SHARES; i++) {
                score += products[i * STRIDE + lane];
            }
            score = masked(score, batch, 0u, block + lane, keys.before);
        }
        scores[lane] = score;
        workgroupBarrier();
        let scores_a = four_scores(group * SHARES);
        let scores_b = four_scores(group * SHARES + 4u);
        let new_highest = max(highest, max(largest(scores_a), largest(scores_b)));
        let shrink = weight(highest - new_highest);
        highest = new_highest;
        sum *= shrink;
        result = scaled(result, shrink);
        for (var t = first; t < end; t++) {
            let i = t - first;
            let w = weight(select(scores_b, scores_a, i < 4u)[i % 4u] - highest);
            sum += w;
            result = add_weighted(result, w, value_share(key_row(batch, t) * v_pieces + head_in_v, share));
        }
    }

    if share == 0u {
        highests[group] = highest;
        sums[group] = sum;
    }
    let at = group * 4u * SHARES + share;
    results[at] = result.a;
    results[at + SHARES] = result.b;
    results[at + 2u * SHARES] = result.c;
    results[at + 3u * SHARES] = result.d;
    workgroupBarrier();
    join_groups(number, lane);
}
