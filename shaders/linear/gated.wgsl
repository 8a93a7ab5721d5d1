// What the fast kernels do with the products of a gate and of what it gates: y = silu(x Wg^T) * (x Wu^T) for a matrix
// that has the rows of Wg above those of Wu. An invocation makes outputs of both, so that neither product goes to memory.
// Gives: p, GATED, PRODUCTS, write_fours.

#import shared/part
#import shared/silu
#import shared/y_in_{0}

struct Params {
    rows: u32,
    cols: u32,
    x_width: u32,    // from a row of x to the next
    outputs: u32,    // rows of Wg and Wu
    row_words: u32,
    group: u32,
    groups: u32,
}

@group(0) @binding(5) var<uniform> p: Params;

// Whether the second half of the outputs is made beside the first.
const GATED = true;
// Products an output of y.
const PRODUCTS: u32 = 2u;

fn write_fours(row: u32, output: u32, more_output: u32, gate: vec4<f32>, up: vec4<f32>) {
    let inner = p.outputs / 2u;
    if row >= p.rows || output / 4u >= fours_of(inner) {
        return;
    }
    let value = vec4(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up;
    put(row, output / 4u, inner, select(vec4(0.0), value, vec4(output) + vec4(0u, 1u, 2u, 3u) < vec4(inner)));
}
