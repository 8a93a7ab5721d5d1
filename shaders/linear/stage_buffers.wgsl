// padded[row, i] = x[row, i], zeros behind the last column: an invocation an element. A copy of bits.

override LANES: u32 = 64u;

struct Params {
    first: u32,       // word of x at which row 0 begins
    cols: u32,
    width: u32,
    count: u32,       // rows * width
}

@group(0) @binding(0) var<storage, read> x: array<u32>;             // [_, cols]
@group(0) @binding(1) var<storage, read_write> padded: array<u32>;  // [rows, width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (group.x + group.y * GRID_X) * LANES + lane;
    if index >= p.count {
        return;
    }
    let row = index / p.width;
    let column = index % p.width;
    var value = 0u;
    if column < p.cols {
        value = x[p.first + row * p.cols + column];
    }
    padded[index] = value;
}
