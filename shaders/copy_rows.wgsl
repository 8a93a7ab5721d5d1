// to[to_rows] = from[from_rows], over and over, an invocation an element.

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    from_count: u32,
    from_rows: u32,
    from_stride: u32,
    from_first: u32,
    to_rows: u32,
    to_stride: u32,
    to_first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [_, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;     // [_, width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.count {
        return;
    }
    let row = id / p.width;
    let source = row % p.from_count;
    let from_x = (source / p.from_rows * p.from_stride + p.from_first + source % p.from_rows) * p.width;
    let to_y = (row / p.to_rows * p.to_stride + p.to_first + row % p.to_rows) * p.width;
    y[to_y + id % p.width] = x[from_x + id % p.width];
}
