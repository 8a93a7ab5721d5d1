// As attention.wgsl for one row of q a sequence, with keys and values in textures, which software adapters read several
// times as fast as buffers: a workgroup a (sequence, head), an invocation every eighth key. What costs there is what
// invocations exchange: attention_step.wgsl does so for every key, here nothing waits until the end. 32 heads of 128 at
// 1500 keys in f32, on Mesa's: attention_step.wgsl 17.9 ms with buffers, 11.6 ms with textures; this kernel 6.8 ms.

#import shared/grid
#import shared/part
#import shared/floats
#import shared/y_in_{0}
#import attention/common
#import attention/masks
#import attention/keys_in_textures

const LANES: u32 = 8u;
const FOURS: u32 = 32u;   // of the longest head

var<workgroup> highests: array<f32, 8>;          // [LANES]
var<workgroup> sums: array<f32, 8>;              // [LANES]
var<workgroup> results: array<vec4<f32>, 256>;   // [FOURS, LANES]

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = in_grid(workgroup);
    let number = place.x + place.y * GRID_X;
    if number >= p.count {
        return;
    }
    let head = number % p.heads;
    let batch = number / p.heads;
    let fours_per_piece = 1u + K_FORMAT;   // as in values
    let piece = 4u * fours_per_piece;
    let head_in_k = (p.k_column + head / p.heads_per_key * HEAD_DIM) / piece;
    let head_in_v = (p.v_column + head / p.heads_per_key * HEAD_DIM) / piece;
    let keys = keys_of(batch, 0u);
    var query: array<vec4<f32>, FOURS>;
    var result: array<vec4<f32>, FOURS>;
    let from_q = batch * p.q_width + p.q_column + head * HEAD_DIM;
    for (var i = 0u; i < HEAD_DIM / 4u; i++) {
        let at = from_q + 4u * i;
        query[i] = p.scale * vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
    }
    var highest = LOWEST;   // of this invocation's scores
    var sum = 0.0;          // of its weights
    for (var t = lane; t < keys.count; t += LANES) {
        let row = key_row(batch, t);
        let from_k = row * (p.k_width / piece) + head_in_k;
        let from_v = row * (p.v_width / piece) + head_in_v;
        var products = vec4(0.0);
        for (var i = 0u; i < HEAD_DIM / 4u; i += fours_per_piece) {
            let x = key_piece(from_k + i / fours_per_piece);
            products += query[i] * four_of(x, K_FORMAT, 0u);
            if K_FORMAT == 1u {
                products += query[i + 1u] * four_of(x, K_FORMAT, 1u);
            }
        }
        let score = masked(dot(products, vec4(1.0)), batch, 0u, t, keys.before);
        let new_highest = max(highest, score);
        let shrink = weight(highest - new_highest);
        let w = weight(score - new_highest);
        highest = new_highest;
        sum = sum * shrink + w;
        for (var i = 0u; i < HEAD_DIM / 4u; i += fours_per_piece) {
            let x = value_piece(from_v + i / fours_per_piece);
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
