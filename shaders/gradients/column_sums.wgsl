// y[c] = sum over rows of a[row, c] * b[row, c] * s[row], b and s only where they are: the gradients of biases, LayerScale,
// weights of norms, and of what is repeated for every sequence. An invocation a column. Sums in f32.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    width: u32,
    b_width: u32,   // 0: no b
    b_column: u32,
    scaled: u32,    // 1 where there is s
    add: u32,       // 1: added to y
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;  // [width]
@group(0) @binding(1) var<storage, read> a: array<f32>;        // [rows, width]
@group(0) @binding(2) var<storage, read> b: array<f32>;        // [rows, b_width]
@group(0) @binding(3) var<storage, read> s: array<f32>;        // [rows]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = (group.x + group.y * GRID_X) * LANES + lane;
    if column >= p.width {
        return;
    }
    var sum = 0.0;
    for (var row = 0u; row < p.rows; row++) {
        var value = a[row * p.width + column];
        if p.b_width > 0u {
            value *= b[row * p.b_width + p.b_column + column];
        }
        if p.scaled == 1u {
            value *= s[row];
        }
        sum += value;
    }
    if p.add == 1u {
        y[column] += sum;
    } else {
        y[column] = sum;
    }
}
