// dk = scale * sum of dZ q and dv = sum of P do, over all rows of all sequences and heads that attend to a key. A workgroup
// a key and key head: its lanes make P and dZ of LANES queries, then each some elements of dk and dv. Sums in f32.

#import shared/grid
#import shared/floats
#import attention/masks
#import gradients/attention_shared

override LANES: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> dkv: array<f32>;  // [batches * keys, 2, kv_heads, HEAD_DIM]: dk, dv
@group(0) @binding(5) var<storage, read> d_o: array<f32>;        // [batch, rows, heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read> stats: array<f32>;      // [batch, heads, rows, 3]

var<workgroup> probabilities: array<f32, LANES>;
var<workgroup> dz: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let number = group.x + group.y * GRID_X;
    let kv_heads = p.heads / p.heads_per_key;
    if number >= p.batches * p.keys * kv_heads {
        return;
    }
    let kv_head = number % kv_heads;
    let t = number / kv_heads % p.keys;
    let first_batch = number / kv_heads / p.keys;
    let of_sequence = p.heads_per_key * p.rows;
    let queries = p.batch / p.batches * of_sequence;
    var dk: array<f32, 4>;
    var dv: array<f32, 4>;
    for (var first = 0u; first < queries; first += LANES) {
        let query = first + lane;
        var probability = 0.0;
        var value = 0.0;
        if query < queries {
            let batch = first_batch + query / of_sequence * p.batches;
            let head = kv_head * p.heads_per_key + query / p.rows % p.heads_per_key;
            let row = query % p.rows;
            let at = 3u * ((batch * p.heads + head) * p.rows + row);
            let score = masked(score_of(query_start(batch, head, row), key_start(batch, head, t)), batch, row, t, 0u);
            probability = weight(score - stats[at]) / stats[at + 1u];
            if score > LOWEST && probability > 0.0 {
                let start = result_start(batch, head, row);
                let from_v = value_start(batch, head, t);
                var product = 0.0;
                for (var i = 0u; i < HEAD_DIM; i++) {
                    product += d_o[start + i] * v[from_v + i];
                }
                value = probability * (product - stats[at + 2u]);
            }
        }
        workgroupBarrier();
        probabilities[lane] = probability;
        dz[lane] = value;
        workgroupBarrier();
        for (var j = 0u; j < min(LANES, queries - first); j++) {
            let other = first + j;
            let batch = first_batch + other / of_sequence * p.batches;
            let head = kv_head * p.heads_per_key + other / p.rows % p.heads_per_key;
            let row = other % p.rows;
            let from_q = query_start(batch, head, row);
            let start = result_start(batch, head, row);
            for (var n = 0u; n < 4u && n * LANES + lane < HEAD_DIM; n++) {
                dk[n] += dz[j] * q[from_q + n * LANES + lane];
                dv[n] += probabilities[j] * d_o[start + n * LANES + lane];
            }
        }
    }
    let to = ((first_batch * p.keys + t) * 2u * kv_heads + kv_head) * HEAD_DIM;
    for (var n = 0u; n < 4u && n * LANES + lane < HEAD_DIM; n++) {
        dkv[to + n * LANES + lane] = p.scale * dk[n];
        dkv[to + kv_heads * HEAD_DIM + n * LANES + lane] = dv[n];
    }
}
