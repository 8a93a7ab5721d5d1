// y = weight * x * rsqrt(mean(x^2) + eps), a workgroup a row; statistics in f32.

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
        var value = vec4(0.0);
        for (var i = 0u; i < 4u; i++) {
            let column = 4u * four + i;
            if column < p.width {
                value[i] = weight[column] * (x[from_x + column] * scale);
            }
        }
        put(row, four, p.width, value);
    }
}
