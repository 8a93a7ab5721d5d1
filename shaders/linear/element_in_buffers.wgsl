// Rows of x in a buffer, of any width.
// Gives: element_of_x.

@group(0) @binding(1) var<storage, read> x: array<f32>;            // [rows, x_width]

fn element_of_x(i: u32) -> f32 {
    return x[i];
}
