// Of each row and head: the highest score, the sum of exp(score - highest), and delta, the sum of do * o. With these the
// other kernels make every probability again. A workgroup a row and head. Sums in f32.

#import shared/grid
#import shared/reductions
#import shared/floats
#import attention/masks
#import gradients/attention_shared

override LANES: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> stats: array<f32>;  // [batch, heads, rows, 3]
@group(0) @binding(5) var<storage, read> o: array<f32>;            // [batch, rows, heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read> d_o: array<f32>;          // as o

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
    // A running maximum and sum a lane, then over the lanes.
    var highest = LOWEST;
    var sum = 0.0;
    for (var t = lane; t < p.keys; t += LANES) {
        let score = masked(score_of(from_q, key_start(batch, head, t)), batch, row, t, 0u);
        let higher = max(highest, score);
        sum = sum * weight(highest - higher) + weight(score - higher);
        highest = higher;
    }
    let highest_of_all = max_of_lanes(highest, lane, LANES);
    sum = sum_of_lanes(sum * weight(highest - highest_of_all), lane, LANES);
    var delta = 0.0;
    let start = result_start(batch, head, row);
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        delta += o[start + i] * d_o[start + i];
    }
    delta = sum_of_lanes(delta, lane, LANES);
    if lane == 0u {
        stats[3u * number] = highest_of_all;
        stats[3u * number + 1u] = sum;
        stats[3u * number + 2u] = delta;
    }
}
