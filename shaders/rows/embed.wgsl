// out[row of i] = table[ids[i]], a workgroup a row; rows whose id lies in another part of the table stay as they are.
// Unpacking in f32. The table as src/weights/matrix.rs lays weights out.

#import shared/grid
#import shared/matrix

override LANES: u32 = 64u;

struct Params {
    count: u32,
    rows: u32,
    stride: u32,
    first: u32,
    cols: u32,
    first_row: u32,
    part_rows: u32,
    row_words: u32,
    group: u32,
    groups: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;  // [_, cols]
@group(0) @binding(1) var<storage, read> ids: array<u32>;        // [count]
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x + group.y * GRID_X;
    if i >= p.count {
        return;
    }
    // An id below first_row wraps round to a large number.
    let row = ids[i] - p.first_row;
    if row >= p.part_rows {
        return;
    }
    let to = (i / p.rows * p.stride + p.first + i % p.rows) * p.cols;
    for (var c = lane; c < p.cols; c += LANES) {
        out[to + c] = element_at(row, c, p.row_words, p.group, p.groups);
    }
}
