// to[row, to_column + i] = from[row, from_column + i]: columns that two tensors share, an invocation an element.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,        // rows * width
    width: u32,
    from_width: u32,
    from_column: u32,
    to_width: u32,
    to_column: u32,
}

@group(0) @binding(0) var<storage, read_write> to: array<f32>;  // [rows, to_width]
@group(0) @binding(1) var<storage, read> from_: array<f32>;     // [rows, from_width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let row = at / p.width;
    let column = at % p.width;
    to[row * p.to_width + p.to_column + column] = from_[row * p.from_width + p.from_column + column];
}
