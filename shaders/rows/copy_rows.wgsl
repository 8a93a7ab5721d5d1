// Compact row i of `to` = compact row i % from_count of `from`, an invocation an element; 32-bit words.

#import shared/grid

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

@group(0) @binding(0) var<storage, read> source: array<u32>;             // [from_batch * from_stride, width]
@group(0) @binding(1) var<storage, read_write> destination: array<u32>;  // [to_batch * to_stride, width]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let column = at % p.width;
    let row = at / p.width;
    let repeated = row % p.from_count;
    let from_row = repeated / p.from_rows * p.from_stride + p.from_first + repeated % p.from_rows;
    let to_row = row / p.to_rows * p.to_stride + p.to_first + row % p.to_rows;
    destination[to_row * p.width + column] = source[from_row * p.width + column];
}
