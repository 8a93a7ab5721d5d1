// y = weight * x * rsqrt(mean(x^2) + eps), a workgroup a row; statistics in f32.

#import shared/grid
#import shared/reductions
#import shared/y_in_{0}

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    rows: u32,
    stride: u32,
    first: u32,
    x_width: u32,
    x_column: u32,
    eps: f32,
}

@group(0) @binding(1) var<storage, read> x: array<f32>;       // [_, x_width]
@group(0) @binding(2) var<storage, read> weight: array<f32>;  // [width]
@group(0) @binding(3) var<uniform> p: Params;

// Element `column` of the row that begins at `from_x`; 0 behind the last.
fn element(from_x: u32, column: u32, scale: f32) -> f32 {
    if column >= p.width {
        return 0.0;
    }
    return weight[column] * (x[from_x + column] * scale);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.count {
        return;
    }
    let from_x = (row / p.rows * p.stride + p.first + row % p.rows) * p.x_width + p.x_column;
    var sum = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        let v = x[from_x + i];
        sum += v * v;
    }
    let scale = inverseSqrt(sum_of_lanes(sum, lane, LANES) / f32(p.width) + p.eps);
    for (var four = lane; four < fours_of(p.width); four += LANES) {
        let column = 4u * four;
        let value = vec4(
            element(from_x, column, scale),
            element(from_x, column + 1u, scale),
            element(from_x, column + 2u, scale),
            element(from_x, column + 3u, scale),
        );
        put(row, four, p.width, value);
    }
}
