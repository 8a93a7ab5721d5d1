// The rows of x in a storage buffer.
// Gives: x_at.

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;  // [rows, x_width / 4]

fn x_at(index: u32) -> vec4<f32> {
    return x[index];
}
