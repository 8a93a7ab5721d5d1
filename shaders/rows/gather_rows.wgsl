// Row i of y = row indices[i] of x, an invocation an element; 32-bit words.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;        // [_, width]
@group(0) @binding(1) var<storage, read> indices: array<u32>;  // [n]
@group(0) @binding(2) var<storage, read_write> y: array<u32>;  // [n, width]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    y[at] = x[indices[at / p.width] * p.width + at % p.width];
}
