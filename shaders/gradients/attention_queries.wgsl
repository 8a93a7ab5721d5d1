// dq = scale * sum over keys of dZ k, with dZ = P (do v^T - delta), and 0 where the key is blocked. A workgroup a row and
// head: its lanes make dZ of LANES keys, then each some elements of dq. Sums in f32.

#import shared/grid
#import shared/floats
#import attention/masks
#import gradients/attention_shared

override LANES: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> dq: array<f32>;  // [batch, rows, heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read> d_o: array<f32>;       // as dq
@group(0) @binding(6) var<storage, read> stats: array<f32>;     // [batch, heads, rows, 3]

var<workgroup> dz: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let number = group.x + group.y * GRID_X;
    if number >= p.batch * p.heads * p.rows {
        return;
    }
    let row = number % p.rows;
    let head = number / p.rows % p.heads;
    let batch = number / p.rows / p.heads;
    let from_q = query_start(batch, head, row);
    let start = result_start(batch, head, row);
    let highest = stats[3u * number];
    let sum = stats[3u * number + 1u];
    let delta = stats[3u * number + 2u];
    var sums: array<f32, 4>;
    for (var first = 0u; first < p.keys; first += LANES) {
        let t = first + lane;
        var value = 0.0;
        if t < p.keys {
            let score = masked(score_of(from_q, key_start(batch, head, t)), batch, row, t, 0u);
            if score > LOWEST {
                let from_v = value_start(batch, head, t);
                var product = 0.0;
                for (var i = 0u; i < HEAD_DIM; i++) {
                    product += d_o[start + i] * v[from_v + i];
                }
                value = weight(score - highest) / sum * (product - delta);
            }
        }
        workgroupBarrier();
        dz[lane] = value;
        workgroupBarrier();
        for (var j = 0u; j < min(LANES, p.keys - first); j++) {
            let from_k = key_start(batch, head, first + j);
            for (var n = 0u; n < 4u && n * LANES + lane < HEAD_DIM; n++) {
                sums[n] += dz[j] * k[from_k + n * LANES + lane];
            }
        }
    }
    for (var n = 0u; n < 4u && n * LANES + lane < HEAD_DIM; n++) {
        dq[start + n * LANES + lane] = p.scale * sums[n];
    }
}
