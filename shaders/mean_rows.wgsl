// The mean over rows, an invocation an output.

override LANES: u32 = 64u;

struct Params {
    count: u32,
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [batch * rows, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;     // [batch, width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.count {
        return;
    }
    let from_x = id / p.width * p.rows * p.width + id % p.width;
    var sum = 0.0;
    for (var row = 0u; row < p.rows; row++) {
        sum += x[from_x + row * p.width];
    }
    y[id] = sum / f32(p.rows);
}
