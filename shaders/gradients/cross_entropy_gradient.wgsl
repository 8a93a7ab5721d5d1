// dlogits = (softmax(logits) - one at the label) * weight of each row, 0 where the label is ignored; a workgroup a row.
// The row's maximum is subtracted first; sums in f32.

#import shared/grid
#import shared/floats
#import shared/reductions

override LANES: u32 = 64u;

const IGNORED: u32 = 0xffffffffu;

struct Params {
    count: u32,
    vocab: u32,
}

@group(0) @binding(0) var<storage, read_write> dlogits: array<f32>;  // [count, vocab]
@group(0) @binding(1) var<storage, read> logits: array<f32>;         // [count, vocab]
@group(0) @binding(2) var<storage, read> labels: array<u32>;         // [count]
@group(0) @binding(3) var<storage, read> weights: array<f32>;        // [count]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.count {
        return;
    }
    let start = row * p.vocab;
    let label = labels[row];
    if label == IGNORED {
        for (var i = lane; i < p.vocab; i += LANES) {
            dlogits[start + i] = 0.0;
        }
        return;
    }
    var highest = LOWEST;
    for (var i = lane; i < p.vocab; i += LANES) {
        highest = max(highest, logits[start + i]);
    }
    highest = max_of_lanes(highest, lane, LANES);
    var sum = 0.0;
    for (var i = lane; i < p.vocab; i += LANES) {
        sum += exp(logits[start + i] - highest);
    }
    let factor = weights[row] / sum_of_lanes(sum, lane, LANES);
    for (var i = lane; i < p.vocab; i += LANES) {
        let target_part = select(0.0, weights[row], i == label);
        dlogits[start + i] = exp(logits[start + i] - highest) * factor - target_part;
    }
}
