// dx = (layer_scale * dy) W, or added to dx: the gradient of a linear layer's rows. W is read by rows, each scaled by one
// number of dy and added up; an invocation makes COLUMNS neighbouring columns of eight rows, so that a word of W is
// unpacked once for eight rows. Lanes differ in their columns alone: what they read of dy is the same. Sums in f32.
// Weights as src/weights/layout.rs lays them out.

#import shared/floats
#import shared/blocks
#import shared/matrix

override LANES: u32 = 64u;
override COLUMNS: u32 = 4u;  // 4 where elements have 32 bits, else 8
override WHOLE: u32 = 0u;    // 1 where a scale's group is whole runs of COLUMNS

struct Params {
    rows: u32,
    cols: u32,
    outputs: u32,
    first_output: u32,  // of dy: the column of this part's first row
    dy_width: u32,
    row_words: u32,
    group: u32,
    groups: u32,
    flags: u32,         // bits: 1 add to dx, 2 layer_scale
}

@group(0) @binding(0) var<storage, read_write> dx: array<f32>;        // [rows, cols]
@group(0) @binding(1) var<storage, read> dy: array<f32>;              // [rows, dy_width]
@group(0) @binding(5) var<storage, read> layer_scale: array<f32>;     // [dy_width]
@group(0) @binding(6) var<uniform> p: Params;

// Columns `column ..` of row `output` of W.
struct Run {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn integer_four(word: u32, shift: u32) -> vec4<f32> {
    let shifts = vec4(shift, shift + FORMAT, shift + 2u * FORMAT, shift + 3u * FORMAT);
    return vec4<f32>(vec4<i32>((vec4(word) >> shifts) & vec4((1u << FORMAT) - 1u)));
}

fn run_at(output: u32, column: u32) -> Run {
    if FORMAT >= 4u && WHOLE == 0u {
        return Run(four_at(output, column), four_at(output, column + 4u));
    }
    let bit = column * bits_of_element();
    let piece = piece_at(starts_of(vec4(output), p.row_words / 4u).x + bit / 128u * NEXT);
    if FORMAT == 0u {
        return Run(bitcast<vec4<f32>>(piece), vec4(0.0));
    }
    if FORMAT <= 2u {
        return Run(
            vec4(unpack2(piece.x, FORMAT), unpack2(piece.y, FORMAT)),
            vec4(unpack2(piece.z, FORMAT), unpack2(piece.w, FORMAT)),
        );
    }
    let index = starts_of(vec4(output), p.groups).x + column / p.group * NEXT;
    let scale = scale_at(index);
    let offset = vec4(offset_at(index, scale));
    let word = bit / 32u % 4u;
    if FORMAT == 4u {
        return Run(scale * integer_four(piece[word], 0u) + offset, scale * integer_four(piece[word], 16u) + offset);
    }
    return Run(scale * integer_four(piece[word], 0u) + offset, scale * integer_four(piece[word + 1u], 0u) + offset);
}

// Four columns of any groups, one by one; 0 behind the last.
fn four_at(output: u32, column: u32) -> vec4<f32> {
    var four = vec4(0.0);
    if column < p.cols {
        four.x = element_at(output, column, p.row_words, p.group, p.groups);
    }
    if column + 1u < p.cols {
        four.y = element_at(output, column + 1u, p.row_words, p.group, p.groups);
    }
    if column + 2u < p.cols {
        four.z = element_at(output, column + 2u, p.row_words, p.group, p.groups);
    }
    if column + 3u < p.cols {
        four.w = element_at(output, column + 3u, p.row_words, p.group, p.groups);
    }
    return four;
}

// dy of row `row`, scaled; 0 behind the last row.
fn dy_at(row: u32, output: u32, scale: f32) -> f32 {
    if row >= p.rows {
        return 0.0;
    }
    return scale * dy[row * p.dy_width + p.first_output + output];
}

fn put(row: u32, column: u32, value: f32) {
    if row >= p.rows || column >= p.cols {
        return;
    }
    let at = row * p.cols + column;
    if (p.flags & 1u) != 0u {
        dx[at] += value;
    } else {
        dx[at] = value;
    }
}

fn put_four(row: u32, column: u32, four: vec4<f32>) {
    put(row, column, four.x);
    put(row, column + 1u, four.y);
    put(row, column + 2u, four.z);
    put(row, column + 3u, four.w);
}

fn put_run(row: u32, column: u32, low: vec4<f32>, high: vec4<f32>) {
    put_four(row, column, low);
    if COLUMNS == 8u {
        put_four(row, column + 4u, high);
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x * COLUMNS;
    let row = id.y * 8u;
    if column >= p.cols {
        return;
    }
    var low0 = mat4x4<f32>();
    var low1 = mat4x4<f32>();
    var high0 = mat4x4<f32>();
    var high1 = mat4x4<f32>();
    for (var output = 0u; output < p.outputs; output++) {
        let w = run_at(output, column);
        var scale = 1.0;
        if (p.flags & 2u) != 0u {
            scale = layer_scale[p.first_output + output];
        }
        let g0 = vec4(
            dy_at(row, output, scale),
            dy_at(row + 1u, output, scale),
            dy_at(row + 2u, output, scale),
            dy_at(row + 3u, output, scale),
        );
        let g1 = vec4(
            dy_at(row + 4u, output, scale),
            dy_at(row + 5u, output, scale),
            dy_at(row + 6u, output, scale),
            dy_at(row + 7u, output, scale),
        );
        low0 += mat4x4(w.low * g0.x, w.low * g0.y, w.low * g0.z, w.low * g0.w);
        low1 += mat4x4(w.low * g1.x, w.low * g1.y, w.low * g1.z, w.low * g1.w);
        if COLUMNS == 8u {
            high0 += mat4x4(w.high * g0.x, w.high * g0.y, w.high * g0.z, w.high * g0.w);
            high1 += mat4x4(w.high * g1.x, w.high * g1.y, w.high * g1.z, w.high * g1.w);
        }
    }
    put_run(row, column, low0[0], high0[0]);
    put_run(row + 1u, column, low0[1], high0[1]);
    put_run(row + 2u, column, low0[2], high0[2]);
    put_run(row + 3u, column, low0[3], high0[3]);
    put_run(row + 4u, column, low1[0], high1[0]);
    put_run(row + 5u, column, low1[1], high1[1]);
    put_run(row + 6u, column, low1[2], high1[2]);
    put_run(row + 7u, column, low1[3], high1[3]);
}
