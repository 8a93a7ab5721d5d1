// y = residual + layer_scale * (x W^T + bias), an invocation an output: the plain kernel, for any number of rows.
// Sums in f32. Weights as src/matrix.rs lays them out.

override FORMAT: u32 = 0u;       // 0 f32, 1 f16, 2 bf16, 4 or 8: integers of as many bits
override SCALES: u32 = 0u;       // storage of scales: 0 f32, 1 f16, 2 bf16
override OFFSETS: u32 = 0u;
override BIAS: u32 = 0u;
override LAYER_SCALE: u32 = 0u;
override RESIDUAL: u32 = 0u;
override LANES: u32 = 64u;

struct Params {
    rows: u32,
    cols: u32,
    outputs: u32,
    first_output: u32,
    y_width: u32,
    row_words: u32,
    group: u32,
    groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;            // [rows, cols]
@group(0) @binding(1) var<storage, read> words: array<u32>;        // [outputs, row_words]
@group(0) @binding(2) var<storage, read> scales: array<u32>;       // [outputs, groups]
@group(0) @binding(3) var<storage, read> offsets: array<f32>;      // [outputs, groups]
@group(0) @binding(4) var<storage, read> bias: array<f32>;         // [y_width]
@group(0) @binding(5) var<storage, read> layer_scale: array<f32>;  // [y_width]
@group(0) @binding(6) var<storage, read> residual: array<f32>;     // [rows, y_width]
@group(0) @binding(7) var<storage, read_write> y: array<f32>;      // [rows, y_width]
@group(0) @binding(8) var<uniform> p: Params;

fn scale_of(index: u32) -> f32 {
    if SCALES == 0u {
        return bitcast<f32>(scales[index]);
    }
    return unpack2(scales[index / 2u], SCALES)[index % 2u];
}

fn weight_of(output: u32, k: u32) -> f32 {
    let row = output * p.row_words;
    if FORMAT == 0u {
        return bitcast<f32>(words[row + k]);
    }
    if FORMAT <= 2u {
        return unpack2(words[row + k / 2u], FORMAT)[k % 2u];
    }
    let q = extractBits(words[row + k * FORMAT / 32u], k * FORMAT % 32u, FORMAT);
    let group = output * p.groups + k / p.group;
    let scale = scale_of(group);
    var offset = -scale * f32((1u << FORMAT) / 2u);
    if OFFSETS == 1u {
        offset = offsets[group];
    }
    return scale * f32(q) + offset;
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= p.outputs {
        return;
    }
    let from_x = id.y * p.cols;
    var value = 0.0;
    for (var k = 0u; k < p.cols; k++) {
        value += x[from_x + k] * weight_of(id.x, k);
    }
    let out = p.first_output + id.x;
    let at = id.y * p.y_width + out;
    if BIAS == 1u {
        value += bias[out];
    }
    if LAYER_SCALE == 1u {
        value *= layer_scale[out];
    }
    if RESIDUAL == 1u {
        value += residual[at];
    }
    y[at] = value;
}
