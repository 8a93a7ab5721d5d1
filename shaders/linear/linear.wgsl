// y = residual + layer_scale * (x W^T + bias), an invocation an output: the plain kernel, for any number of rows.
// Sums in f32. Weights as src/weights/matrix.rs lays them out.

#import shared/part
#import shared/matrix
#import linear/output
#import linear/element_in_{1}

override LANES: u32 = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = in_grid(workgroup) * vec2(LANES, 1u) + vec2(lane, 0u);
    if id.x >= p.outputs {
        return;
    }
    let from_x = id.y * p.x_width;
    var value = 0.0;
    for (var k = 0u; k < p.cols; k++) {
        value += element_of_x(from_x + k) * element_at(id.x, k, p.row_words, p.group, p.groups);
    }
    write_output(id.y, id.x, value);
}
