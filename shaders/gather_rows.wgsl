// y[i] = x[indices[i]], an invocation an element.

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [_, width]
@group(0) @binding(1) var<storage, read> indices: array<u32>;     // [count / width]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;     // [count / width, width]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.count {
        return;
    }
    y[id] = x[indices[id / p.width] * p.width + id % p.width];
}
