// With r = rsqrt(mean(x^2) + eps) and g = weight * dy: dx = r g - x r^3 mean(g x), or added to dx; a workgroup a row.
// Keeps r of each row too, which the weight's gradient needs. Statistics in f32.

#import shared/grid
#import shared/reductions

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    rows: u32,       // the rows of x and dx, as ops::Rows names them
    stride: u32,
    first: u32,
    x_width: u32,
    x_column: u32,
    dy_width: u32,   // dy has its rows one behind the other
    dy_column: u32,
    dx_width: u32,
    dx_column: u32,
    add: u32,        // 1: added to dx
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> dx: array<f32>;        // [_, dx_width]
@group(0) @binding(1) var<storage, read_write> inverses: array<f32>;  // [count]: r
@group(0) @binding(2) var<storage, read> dy: array<f32>;              // [count, dy_width]
@group(0) @binding(3) var<storage, read> x: array<f32>;               // [_, x_width]
@group(0) @binding(4) var<storage, read> weight: array<f32>;          // [width]
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.count {
        return;
    }
    let row_of_x = row / p.rows * p.stride + p.first + row % p.rows;
    let from_x = row_of_x * p.x_width + p.x_column;
    let from_dy = row * p.dy_width + p.dy_column;
    let to = row_of_x * p.dx_width + p.dx_column;
    var squares = 0.0;
    var products = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        let v = x[from_x + i];
        squares += v * v;
        products += weight[i] * dy[from_dy + i] * v;
    }
    let inverse = inverseSqrt(sum_of_lanes(squares, lane, LANES) / f32(p.width) + p.eps);
    let mean = sum_of_lanes(products, lane, LANES) / f32(p.width);
    let along = inverse * inverse * mean;
    for (var i = lane; i < p.width; i += LANES) {
        let value = inverse * (weight[i] * dy[from_dy + i] - x[from_x + i] * along);
        if p.add == 1u {
            dx[to + i] += value;
        } else {
            dx[to + i] = value;
        }
    }
    if lane == 0u {
        inverses[row] = inverse;
    }
}
