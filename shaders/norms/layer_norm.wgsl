// y = weight * (x - mean) / sqrt(variance + eps) + bias, a workgroup a row; the variance is the mean of (x - mean)^2.
// Statistics in f32.

#import shared/grid
#import shared/reductions

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;        // [count, width]
@group(0) @binding(1) var<storage, read> weight: array<f32>;   // [width]
@group(0) @binding(2) var<storage, read> bias: array<f32>;     // [width]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;  // [count, width]
@group(0) @binding(4) var<uniform> p: Params;

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
    let scale = inverseSqrt(sum_of_lanes(squares, lane, LANES) / f32(p.width) + p.eps);
    for (var i = lane; i < p.width; i += LANES) {
        y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
    }
}
