// y = x / ||x||_2 over each row, a workgroup a row; a row of zeros stays. Sums in f32.

#import shared/grid
#import shared/reductions

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;        // [count, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;  // [count, width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.count {
        return;
    }
    let start = row * p.width;
    var squares = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        let v = x[start + i];
        squares += v * v;
    }
    let sum = sum_of_lanes(squares, lane, LANES);
    var scale = 0.0;
    if sum > 0.0 {
        scale = inverseSqrt(sum);
    }
    for (var i = lane; i < p.width; i += LANES) {
        y[start + i] = x[start + i] * scale;
    }
}
