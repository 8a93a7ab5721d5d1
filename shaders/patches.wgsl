// Patches as rows, an invocation an element.

override LANES: u32 = 64u;

struct Params {
    count: u32,
    height: u32,
    width: u32,
    side: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [batch, 3, height, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;     // [batch * patches, 3 * side * side]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.count {
        return;
    }
    let s = p.side;
    let grid_h = p.height / s;
    let grid_w = p.width / s;
    let column = id % (3u * s * s);
    let row = id / (3u * s * s);
    let c = column / (s * s);
    let b = row / (grid_h * grid_w);
    let py = row / grid_w % grid_h * s + column / s % s;
    let px = row % grid_w * s + column % s;
    y[id] = x[((b * 3u + c) * p.height + py) * p.width + px];
}
