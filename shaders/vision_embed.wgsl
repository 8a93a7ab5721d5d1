// Class row in front, plus position, an invocation an element.

override LANES: u32 = 64u;

struct Params {
    count: u32,
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> patches: array<f32>;             // [batch * (rows - 1), width]
@group(0) @binding(1) var<storage, read> class_embedding: array<f32>;     // [width]
@group(0) @binding(2) var<storage, read> position: array<f32>;            // [rows, width]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;             // [batch * rows, width]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.count {
        return;
    }
    let column = id % p.width;
    let row = id / p.width % p.rows;
    let b = id / p.width / p.rows;
    var value = class_embedding[column];
    if row > 0u {
        value = patches[(b * (p.rows - 1u) + row - 1u) * p.width + column];
    }
    y[id] = value + position[row * p.width + column];
}
