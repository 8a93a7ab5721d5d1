// y = residual + layer_scale * (x W^T + bias), an invocation an output: the plain kernel, for any number of rows.
// Sums in f32. Weights as src/weights/matrix.rs lays them out.

#import shared/matrix
#import linear/output

override LANES: u32 = 64u;

@group(0) @binding(1) var<storage, read> x: array<f32>;            // [rows, cols]

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= p.outputs {
        return;
    }
    let from_x = id.y * p.x_width;
    var value = 0.0;
    for (var k = 0u; k < p.cols; k++) {
        value += x[from_x + k] * element_at(id.x, k, p.row_words, p.group, p.groups);
    }
    write_output(id.y, id.x, value);
}
