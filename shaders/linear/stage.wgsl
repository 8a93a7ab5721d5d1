// texels[row, i] = x[row, 4 i .. 4 i + 4], zeros behind the last column: an invocation a texel. A copy of bits.

override LANES: u32 = 64u;

struct Params {
    first: u32,       // word of x at which row 0 begins
    cols: u32,
    width: u32,       // 4 a texel
    count: u32,       // texels
}

@group(0) @binding(0) var<storage, read> x: array<u32>;                   // [_, cols]
@group(0) @binding(1) var texels: texture_storage_2d<rgba32uint, write>;  // [rows, width / 4]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (group.x + group.y * GRID_X) * LANES + lane;
    if index >= p.count {
        return;
    }
    let row_texels = p.width / 4u;
    let row = index / row_texels;
    let column = index % row_texels * 4u;
    var value = vec4(0u);
    for (var i = 0u; i < 4u; i++) {
        if column + i < p.cols {
            value[i] = x[p.first + row * p.cols + column + i];
        }
    }
    textureStore(texels, vec2(index & 1023u, index >> 10u), value);
}
