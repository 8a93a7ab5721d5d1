// x[rows] += delta, an invocation an element; f32.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    rows: u32,
    stride: u32,
    first: u32,
}

@group(0) @binding(0) var<storage, read> delta: array<f32>;    // [batch * rows, width]
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [batch * stride, width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let row = at / p.width;
    let to_row = row / p.rows * p.stride + p.first + row % p.rows;
    x[to_row * p.width + at % p.width] += delta[at];
}
