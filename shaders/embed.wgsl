// out[row of i] = table[ids[i]], a workgroup a row; rows whose id lies in another part of the table stay as they are.
// Unpacking in f32. The table as src/matrix.rs lays weights out.

override FORMAT: u32 = 0u;   // 0 f32, 1 f16, 2 bf16, 4 or 8: integers of as many bits
override SCALES: u32 = 0u;   // storage of scales: 0 f32, 1 f16, 2 bf16
override OFFSETS: u32 = 0u;
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

@group(0) @binding(0) var<storage, read> ids: array<u32>;        // [count]
@group(0) @binding(1) var<storage, read> words: array<u32>;      // [part_rows, row_words]
@group(0) @binding(2) var<storage, read> scales: array<u32>;     // [part_rows, groups]
@group(0) @binding(3) var<storage, read> offsets: array<f32>;    // [part_rows, groups]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;  // [_, cols]
@group(0) @binding(5) var<uniform> p: Params;

fn scale_of(index: u32) -> f32 {
    if SCALES == 0u {
        return bitcast<f32>(scales[index]);
    }
    return unpack2(scales[index / 2u], SCALES)[index % 2u];
}

fn element(row: u32, col: u32) -> f32 {
    let start = row * p.row_words;
    if FORMAT == 0u {
        return bitcast<f32>(words[start + col]);
    }
    if FORMAT <= 2u {
        return unpack2(words[start + col / 2u], FORMAT)[col % 2u];
    }
    let q = extractBits(words[start + col * FORMAT / 32u], col * FORMAT % 32u, FORMAT);
    let group = row * p.groups + col / p.group;
    let scale = scale_of(group);
    var offset = -scale * f32((1u << FORMAT) / 2u);
    if OFFSETS == 1u {
        offset = offsets[group];
    }
    return scale * f32(q) + offset;
}

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
        out[to + c] = element(row, c);
    }
}
