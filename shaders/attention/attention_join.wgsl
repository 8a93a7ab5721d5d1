// out = the sums of the parts of attention_step.wgsl, joined: sum(w[i] sums[i]) / sum(w[i] weights[i]) with
// w[i] = exp(highest[i] - highest of all). A workgroup a (sequence, head); f32.

#import shared/grid
#import shared/floats

override PARTS: u32 = 8u;
override HEAD_DIM: u32 = 64u;
override LANES: u32 = 64u;

struct Params {
    count: u32,  // batch * heads
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [count, HEAD_DIM]
@group(0) @binding(1) var<storage, read> parts: array<f32>;      // [count, PARTS, HEAD_DIM + 2]
@group(0) @binding(2) var<uniform> p: Params;

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
    let width = HEAD_DIM + 2u;
    let start = number * PARTS * width;
    var highest = LOWEST;
    for (var i = 0u; i < PARTS; i++) {
        highest = max(highest, parts[start + i * width + HEAD_DIM]);
    }
    for (var element = lane; element < HEAD_DIM; element += LANES) {
        var total = 0.0;
        var weights = 0.0;
        for (var i = 0u; i < PARTS; i++) {
            let w = weight(parts[start + i * width + HEAD_DIM] - highest);
            total += w * parts[start + i * width + element];
            weights += w * parts[start + i * width + HEAD_DIM + 1u];
        }
        out[number * HEAD_DIM + element] = total / weights;
    }
}
