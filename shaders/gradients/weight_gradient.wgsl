// dW[o, c] = layer_scale[o] * sum over rows of dy[row, o] * x[row, c], or added to dW: the gradient of a linear layer's
// weight. An invocation makes 4 x 4 of them. Sums in f32.

#import shared/blocks

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    outputs: u32,
    cols: u32,
    dy_width: u32,
    dy_column: u32,
    x_width: u32,
    x_column: u32,
    out_width: u32,
    out_row: u32,
    out_column: u32,
    flags: u32,      // bits: 1 add to dW, 2 layer_scale, 4 dW in blocks of rows, as a matrix of f32
}

@group(0) @binding(0) var<storage, read_write> dw: array<f32>;     // [_, out_width]
@group(0) @binding(1) var<storage, read> dy: array<f32>;           // [rows, dy_width]
@group(0) @binding(2) var<storage, read> x: array<f32>;            // [rows, x_width]
@group(0) @binding(3) var<storage, read> layer_scale: array<f32>;  // [dy_width]
@group(0) @binding(4) var<uniform> p: Params;

fn dy_four(start: u32, output: u32) -> vec4<f32> {
    let last = p.outputs - 1u;
    let at = start + p.dy_column;
    return vec4(
        dy[at + output],
        dy[at + min(output + 1u, last)],
        dy[at + min(output + 2u, last)],
        dy[at + min(output + 3u, last)],
    );
}

fn x_four(start: u32, column: u32) -> vec4<f32> {
    let last = p.cols - 1u;
    let at = start + p.x_column;
    return vec4(
        x[at + column],
        x[at + min(column + 1u, last)],
        x[at + min(column + 2u, last)],
        x[at + min(column + 3u, last)],
    );
}

// Where an element of dW lies.
fn place_of(row: u32, column: u32) -> u32 {
    if (p.flags & 4u) == 0u {
        return row * p.out_width + column;
    }
    return (starts_of(vec4(row), p.out_width / 4u).x + column / 4u * NEXT) * 4u + column % 4u;
}

fn put_row(output: u32, column: u32, sums: vec4<f32>) {
    if output >= p.outputs {
        return;
    }
    var values = sums;
    if (p.flags & 2u) != 0u {
        values *= layer_scale[p.dy_column + output];
    }
    for (var i = 0u; i < 4u && column + i < p.cols; i++) {
        let at = place_of(p.out_row + output, p.out_column + column + i);
        if (p.flags & 1u) != 0u {
            dw[at] += values[i];
        } else {
            dw[at] = values[i];
        }
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x * 4u;
    let output = id.y * 4u;
    if column >= p.cols {
        return;
    }
    var sums = mat4x4<f32>();
    for (var row = 0u; row < p.rows; row++) {
        let g = dy_four(row * p.dy_width, output);
        let v = x_four(row * p.x_width, column);
        sums += mat4x4(v * g.x, v * g.y, v * g.z, v * g.w);
    }
    put_row(output, column, sums[0]);
    put_row(output + 1u, column, sums[1]);
    put_row(output + 2u, column, sums[2]);
    put_row(output + 3u, column, sums[3]);
}
