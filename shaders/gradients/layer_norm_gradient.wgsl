// With h = (x - mean) / deviation and g = weight * dy: dx = (g - mean g - h mean(g h)) / deviation, or added to dx; h is
// kept, as the weight's gradient needs it. A workgroup a row; statistics in f32.

#import shared/grid
#import shared/reductions

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    add: u32,     // 1: added to dx
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> dx: array<f32>;  // [count, width]
@group(0) @binding(1) var<storage, read_write> h: array<f32>;   // [count, width]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [count, width]
@group(0) @binding(3) var<storage, read> x: array<f32>;         // [count, width]
@group(0) @binding(4) var<storage, read> weight: array<f32>;    // [width]
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.count {
        return;
    }
    let start = row * p.width;
    var sum = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        sum += x[start + i];
    }
    let mean = sum_of_lanes(sum, lane, LANES) / f32(p.width);
    var squares = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        let v = x[start + i] - mean;
        squares += v * v;
    }
    let inverse = inverseSqrt(sum_of_lanes(squares, lane, LANES) / f32(p.width) + p.eps);
    var sum_of_g = 0.0;
    var sum_of_gh = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        let g = weight[i] * dy[start + i];
        sum_of_g += g;
        sum_of_gh += g * (x[start + i] - mean) * inverse;
    }
    let mean_of_g = sum_of_lanes(sum_of_g, lane, LANES) / f32(p.width);
    let mean_of_gh = sum_of_lanes(sum_of_gh, lane, LANES) / f32(p.width);
    for (var i = lane; i < p.width; i += LANES) {
        let normed = (x[start + i] - mean) * inverse;
        let value = inverse * (weight[i] * dy[start + i] - mean_of_g - normed * mean_of_gh);
        h[start + i] = normed;
        if p.add == 1u {
            dx[start + i] += value;
        } else {
            dx[start + i] = value;
        }
    }
}
