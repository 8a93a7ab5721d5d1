// y = silu(x Wg^T) * (x Wu^T): what tile.wgsl does with a matrix that has the rows of Wg above those of Wu. An
// invocation makes fours of both, so that neither product goes to memory.

#import shared/part
#import shared/silu
#import shared/y_in_{0}
#import linear/tile

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

fn write_fours(row: u32, output: u32, more_output: u32, gate: vec4<f32>, up: vec4<f32>) {
    let inner = p.outputs / 2u;
    if row >= p.rows || output / 4u >= fours_of(inner) {
        return;
    }
    let value = vec4(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up;
    put(row, output / 4u, inner, select(vec4(0.0), value, vec4(output) + STEPS < vec4(inner)));
}
