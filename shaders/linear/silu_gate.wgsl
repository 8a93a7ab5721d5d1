// y = silu(gate) * up with silu(g) = g / (1 + exp(-g)), an invocation four elements; f32.

#import shared/grid
#import shared/part
#import shared/silu
#import shared/y_in_{0}

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    inner: u32,
}

@group(0) @binding(1) var<storage, read> gate_up: array<f32>;  // [rows, 2 * inner]: gate, then up
@group(0) @binding(2) var<uniform> p: Params;

// Element `i` of a row whose gate begins at `start`; 0 behind the last.
fn element(start: u32, i: u32) -> f32 {
    if i >= p.inner {
        return 0.0;
    }
    return silu(gate_up[start + i]) * gate_up[start + i + p.inner];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = in_grid(group);
    let at = (place.x + place.y * GRID_X) * LANES + lane;
    let row = at / fours_of(p.inner);
    let four = at % fours_of(p.inner);
    if row >= p.rows {
        return;
    }
    let start = row * 2u * p.inner;
    let i = 4u * four;
    let value = vec4(element(start, i), element(start, i + 1u), element(start, i + 2u), element(start, i + 3u));
    put(row, four, p.inner, value);
}
