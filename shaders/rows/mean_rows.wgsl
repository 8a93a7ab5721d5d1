// The mean of each sequence's rows, an invocation an element; sums in f32.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    rows: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;        // [batch * rows, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;  // [batch, width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let start = at / p.width * p.rows * p.width + at % p.width;
    var sum = 0.0;
    for (var row = 0u; row < p.rows; row++) {
        sum += x[start + row * p.width];
    }
    y[at] = sum / f32(p.rows);
}
