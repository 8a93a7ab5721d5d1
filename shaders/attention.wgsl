// softmax(scale * q k^T + mask) v, a workgroup a row of a head, keys in blocks with a running maximum and sum; f32.
// With PROBABILITIES, the softmax itself is written instead, in a second pass over the keys.

override CACHED: u32 = 0u;          // keys by table, or in rows
override MASK: u32 = 0u;            // 0 none, 1 causal, 2 causal and attention_mask, 3 additive
override STORED: u32 = 0u;          // storage of k and v: 0 f32, 1 f16
override PROBABILITIES: u32 = 0u;
override LANES: u32 = 64u;
override BLOCK: u32 = 64u;          // equal to LANES

struct Params {
    batch: u32,
    rows: u32,
    keys: u32,
    key_batches: u32,
    heads: u32,
    heads_per_key: u32,
    head_dim: u32,
    q_width: u32,
    q_column: u32,
    k_width: u32,
    k_column: u32,
    v_width: u32,
    v_column: u32,
    table_width: u32,
    mask_width: u32,
    zero_queries: u32,
    probability_width: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;            // [batch * rows, q_width]
@group(0) @binding(1) var<storage, read> k: array<u32>;            // [_, k_width]
@group(0) @binding(2) var<storage, read> v: array<u32>;            // [_, v_width]
@group(0) @binding(3) var<storage, read> table: array<u32>;        // [batch, table_width]
@group(0) @binding(4) var<storage, read> past: array<u32>;         // [1]
@group(0) @binding(5) var<storage, read> mask: array<u32>;         // [batch, mask_width] or f32 [batch, rows, mask_width]
@group(0) @binding(6) var<storage, read_write> y: array<f32>;      // [batch * rows, heads * head_dim] or [batch, heads, rows, probability_width]
@group(0) @binding(7) var<uniform> p: Params;

var<workgroup> query: array<f32, 256>;
var<workgroup> scores: array<f32, BLOCK>;
var<workgroup> key_rows: array<u32, BLOCK>;
var<workgroup> partial: array<f32, LANES>;

fn k_at(index: u32) -> f32 {
    if STORED == 0u {
        return bitcast<f32>(k[index]);
    }
    return unpack2(k[index / 2u], STORED)[index % 2u];
}

fn v_at(index: u32) -> f32 {
    if STORED == 0u {
        return bitcast<f32>(v[index]);
    }
    return unpack2(v[index / 2u], STORED)[index % 2u];
}

fn row_of(b: u32, t: u32) -> u32 {
    if CACHED == 1u {
        return table[b * p.table_width + t];
    }
    return (b % p.key_batches) * p.keys + t;
}

fn bias_of(b: u32, s: u32, t: u32, before: u32) -> f32 {
    if MASK == 0u {
        return 0.0;
    }
    if MASK == 3u {
        return bitcast<f32>(mask[(b * p.rows + s) * p.mask_width + t]);
    }
    if s < p.zero_queries && t < p.zero_queries {
        return 0.0;
    }
    if t > before + s {
        return LOWEST;
    }
    if MASK == 2u && mask[b * p.mask_width + t] == 0u {
        return LOWEST;
    }
    return 0.0;
}

// The largest of the block's scores, in every lane.
fn largest_of_block(lane: u32, count: u32) -> f32 {
    var m = LOWEST;
    for (var i = 0u; i < count; i++) {
        m = max(m, scores[i]);
    }
    return m;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = group.x + group.y * GRID_X;
    if id >= p.batch * p.rows * p.heads {
        return;
    }
    let head = id % p.heads;
    let s = id / p.heads % p.rows;
    let b = id / p.heads / p.rows;
    var before = 0u;
    var keys = p.keys;
    if CACHED == 1u {
        before = past[0];
        keys = before + p.rows;
    }
    let dim = p.head_dim;
    let from_q = (b * p.rows + s) * p.q_width + p.q_column + head * dim;
    let from_kv = head / p.heads_per_key * dim;
    for (var d = lane; d < dim; d += LANES) {
        query[d] = q[from_q + d] * p.scale;
    }
    var largest = LOWEST;
    var sum = 0.0;
    // Lane l holds dimensions l, l + LANES, l + 2 LANES and l + 3 LANES of the output.
    var out = vec4(0.0);
    for (var first = 0u; first < keys; first += BLOCK) {
        workgroupBarrier();
        let t = first + lane;
        let count = min(BLOCK, keys - first);
        if lane < count {
            let row = row_of(b, t);
            key_rows[lane] = row;
            let from_k = row * p.k_width + p.k_column + from_kv;
            var dot = 0.0;
            for (var d = 0u; d < dim; d++) {
                dot += query[d] * k_at(from_k + d);
            }
            scores[lane] = max(dot + bias_of(b, s, t, before), LOWEST);
        }
        workgroupBarrier();
        let highest = max(largest, largest_of_block(lane, count));
        let shrink = exp(largest - highest);
        largest = highest;
        sum *= shrink;
        out *= shrink;
        for (var i = 0u; i < count; i++) {
            let weight = exp(scores[i] - largest);
            sum += weight;
            if PROBABILITIES == 0u {
                let from_v = key_rows[i] * p.v_width + p.v_column + from_kv + lane;
                for (var j = 0u; j < 4u && lane + j * LANES < dim; j++) {
                    out[j] += weight * v_at(from_v + j * LANES);
                }
            }
        }
    }
    if PROBABILITIES == 0u {
        let to = ((b * p.rows + s) * p.heads + head) * dim + lane;
        for (var j = 0u; j < 4u && lane + j * LANES < dim; j++) {
            y[to + j * LANES] = out[j] / sum;
        }
        return;
    }
    let to = ((b * p.heads + head) * p.rows + s) * p.probability_width;
    for (var t = lane; t < keys; t += LANES) {
        let from_k = row_of(b, t) * p.k_width + p.k_column + from_kv;
        var dot = 0.0;
        for (var d = 0u; d < dim; d++) {
            dot += query[d] * k_at(from_k + d);
        }
        y[to + t] = exp(max(dot + bias_of(b, s, t, before), LOWEST) - largest) / sum;
    }
}
