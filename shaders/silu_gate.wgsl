// y = silu(gate) * up with silu(g) = g / (1 + exp(-g)), an invocation four elements; f32.

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    inner: u32,
}

@group(0) @binding(1) var<storage, read> gate_up: array<f32>;  // [rows, 2 * inner]: gate, then up
@group(0) @binding(2) var<uniform> p: Params;

fn silu(gate: f32) -> f32 {
    // exp of nothing above 0, so that it never overflows.
    let e = exp(-abs(gate));
    return gate * select(e, 1.0, gate >= 0.0) / (1.0 + e);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    let row = at / fours_of(p.inner);
    let four = at % fours_of(p.inner);
    if row >= p.rows {
        return;
    }
    let gate_at = row * 2u * p.inner + 4u * four;
    var value = vec4(0.0);
    for (var i = 0u; i < 4u && 4u * four + i < p.inner; i++) {
        value[i] = silu(gate_up[gate_at + i]) * gate_up[gate_at + i + p.inner];
    }
    put(row, four, p.inner, value);
}
