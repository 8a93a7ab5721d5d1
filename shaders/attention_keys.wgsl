// As attention.wgsl for one row of q a sequence, with keys and values in textures, which software adapters read several
// times as fast as buffers: a workgroup a (sequence, head), an invocation every eighth key. What costs there is what
// invocations exchange: attention_step.wgsl does so for every key, here nothing waits until the end. 32 heads of 128 at
// 1500 keys in f32, on Mesa's: attention_step.wgsl 17.9 ms with buffers, 11.6 ms with textures; this kernel 6.8 ms.

override HEAD_DIM: u32 = 64u;      // at most 128
override CACHED: u32 = 0u;         // keys lie where table says; otherwise in rows one after another
override MASK: u32 = 0u;           // 0 none, 1 causal, 2 causal and mask of keys, 3 additive

struct Params {
    count: u32,         // batch * heads * rows
    heads: u32,
    rows: u32,          // 1
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

@group(0) @binding(1) var<storage, read> q: array<f32>;          // [batch, q_width]
@group(0) @binding(4) var<storage, read> table: array<u32>;      // [batch, capacity]
@group(0) @binding(5) var<storage, read> past: array<u32>;       // [1]
@group(0) @binding(6) var<storage, read> mask: array<u32>;       // [batch, mask_width], or f32 [batch, 1, mask_width]
@group(0) @binding(7) var<uniform> p: Params;

const LANES: u32 = 8u;
const FOURS: u32 = 32u;   // of the longest head

var<workgroup> highests: array<f32, 8>;          // [LANES]
var<workgroup> sums: array<f32, 8>;              // [LANES]
var<workgroup> results: array<vec4<f32>, 256>;   // [FOURS, LANES]

fn key_row(batch: u32, t: u32) -> u32 {
    if CACHED == 1u {
        return table[batch * p.capacity + t];
    }
    return batch % p.batches * p.capacity + t;
}

fn masked(score: f32, batch: u32, t: u32, before: u32) -> f32 {
    if MASK == 0u {
        return score;
    }
    if MASK == 3u {
        let bits = mask[batch * p.mask_width + t];
        // Negative infinity, which WGSL need not know, counts as LOWEST.
        if bits == 0xff800000u {
            return LOWEST;
        }
        return max(score + bitcast<f32>(bits), LOWEST);
    }
    var visible = t <= before;
    if MASK == 2u {
        visible = visible && mask[batch * p.mask_width + t] != 0u;
    }
    visible = visible || (0u < p.zero_queries && t < p.zero_queries);
    return select(LOWEST, score, visible);
}

// exp of a number that is not positive; exactly 0 far down, whatever the adapter's exp does there.
fn weight(x: f32) -> f32 {
    return select(0.0, exp(x), x > -87.0);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let number = workgroup.x + workgroup.y * GRID_X;
    if number >= p.count {
        return;
    }
    let head = number % p.heads;
    let batch = number / p.heads;
    let fours_a_piece = 1u + K_FORMAT;   // as in values
    let piece = 4u * fours_a_piece;
    let head_in_k = (p.k_column + head / p.heads_a_key * HEAD_DIM) / piece;
    let head_in_v = (p.v_column + head / p.heads_a_key * HEAD_DIM) / piece;
    var keys = p.capacity;
    var before = 0u;
    if CACHED == 1u {
        before = past[0];
        keys = min(before + 1u, p.capacity);
    }
    var query: array<vec4<f32>, FOURS>;
    var result: array<vec4<f32>, FOURS>;
    let from_q = batch * p.q_width + p.q_column + head * HEAD_DIM;
    for (var i = 0u; i < HEAD_DIM / 4u; i++) {
        let at = from_q + 4u * i;
        query[i] = p.scale * vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
    }
    var highest = LOWEST;   // of this invocation's scores
    var sum = 0.0;          // of its weights
    for (var t = lane; t < keys; t += LANES) {
        let row = key_row(batch, t);
        let from_k = row * (p.k_width / piece) + head_in_k;
        let from_v = row * (p.v_width / piece) + head_in_v;
        var products = vec4(0.0);
        for (var i = 0u; i < HEAD_DIM / 4u; i += fours_a_piece) {
            let x = key_piece(from_k + i / fours_a_piece);
            products += query[i] * four_of(x, K_FORMAT, 0u);
            if K_FORMAT == 1u {
                products += query[i + 1u] * four_of(x, K_FORMAT, 1u);
            }
        }
        let score = masked(dot(products, vec4(1.0)), batch, t, before);
        let new_highest = max(highest, score);
        let shrink = weight(highest - new_highest);
        let w = weight(score - new_highest);
        highest = new_highest;
        sum = sum * shrink + w;
        for (var i = 0u; i < HEAD_DIM / 4u; i += fours_a_piece) {
            let x = value_piece(from_v + i / fours_a_piece);
            result[i] = result[i] * shrink + w * four_of(x, V_FORMAT, 0u);
            if V_FORMAT == 1u {
                result[i + 1u] = result[i + 1u] * shrink + w * four_of(x, V_FORMAT, 1u);
            }
        }
    }

    highests[lane] = highest;
    sums[lane] = sum;
    for (var i = 0u; i < HEAD_DIM / 4u; i++) {
        results[i * LANES + lane] = result[i];
    }
    workgroupBarrier();
    var most = LOWEST;
    for (var i = 0u; i < LANES; i++) {
        most = max(most, highests[i]);
    }
    for (var four = lane; four < HEAD_DIM / 4u; four += LANES) {
        var total = vec4(0.0);
        var weights = 0.0;
        for (var i = 0u; i < LANES; i++) {
            let w = weight(highests[i] - most);
            weights += w * sums[i];
            total += w * results[four * LANES + i];
        }
        put(batch, head * HEAD_DIM / 4u + four, p.heads * HEAD_DIM, total / weights);
    }
}
