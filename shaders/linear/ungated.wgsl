// What the fast kernels do with the products of a linear layer.
// Gives: p, GATED, PRODUCTS, write_fours.

#import linear/output

// Whether the second half of the outputs is made beside the first.
const GATED = false;
// Products an output of y.
const PRODUCTS: u32 = 1u;

// The products of a row with 4 neighbouring outputs; those beyond the last are left out.
fn write_four(row: u32, output: u32, products: vec4<f32>) {
    for (var i = 0u; i < 4u && output + i < p.outputs; i++) {
        write_output(row, output + i, products[i]);
    }
}

// Two fours of outputs, or one where both are the same.
fn write_fours(row: u32, output: u32, more_output: u32, products: vec4<f32>, more_products: vec4<f32>) {
    if row >= p.rows {
        return;
    }
    write_four(row, output, products);
    if more_output != output {
        write_four(row, more_output, more_products);
    }
}
