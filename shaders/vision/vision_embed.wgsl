// Each picture's rows: the class embedding, then its patches, plus the position embedding; an invocation an element.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,
    width: u32,
    rows: u32,
}

@group(0) @binding(0) var<storage, read> patches: array<f32>;             // [batch * (rows - 1), width]
@group(0) @binding(1) var<storage, read> class_embedding: array<f32>;     // [width]
@group(0) @binding(2) var<storage, read> position_embedding: array<f32>;  // [rows, width]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;             // [batch * rows, width]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let column = at % p.width;
    let row = at / p.width % p.rows;
    let picture = at / p.width / p.rows;
    var value = 0.0;
    if row == 0u {
        value = class_embedding[column];
    } else {
        value = patches[(picture * (p.rows - 1u) + row - 1u) * p.width + column];
    }
    y[at] = value + position_embedding[row * p.width + column];
}
