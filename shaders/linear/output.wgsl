// What the kernels of the linear layer share: parameters, and what is done to a product before it is written.
// Gives: p, write_output.

struct Params {
    rows: u32,
    cols: u32,
    x_width: u32,           // from a row of x to the next
    outputs: u32,
    first_output: u32,
    y_width: u32,
    first_row: u32,         // of y: where row 0 of x goes
    row_words: u32,
    group: u32,
    groups: u32,
    epilogue: u32,          // bits: 1 bias, 2 layer_scale, 4 residual
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;      // [_, y_width]
@group(0) @binding(5) var<storage, read> bias: array<f32>;         // [y_width]
@group(0) @binding(6) var<storage, read> layer_scale: array<f32>;  // [y_width]
@group(0) @binding(7) var<storage, read> residual: array<f32>;     // [_, y_width]
@group(0) @binding(8) var<uniform> p: Params;

fn write_output(row: u32, output: u32, product: f32) {
    let out = p.first_output + output;
    let at = (p.first_row + row) * p.y_width + out;
    var value = product;
    if (p.epilogue & 1u) != 0u {
        value += bias[out];
    }
    if (p.epilogue & 2u) != 0u {
        value *= layer_scale[out];
    }
    if (p.epilogue & 4u) != 0u {
        value += residual[at];
    }
    y[at] = value;
}
