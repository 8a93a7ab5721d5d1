// y = silu(gate) * up with silu(g) = g / (1 + exp(-g)), an invocation an element; f32.

override LANES: u32 = 64u;

struct Params {
    count: u32,
    inner: u32,
}

@group(0) @binding(0) var<storage, read> gate_up: array<f32>;  // [rows, 2 * inner]: gate, then up
@group(0) @binding(1) var<storage, read_write> y: array<f32>;  // [rows, inner]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let gate_at = at / p.inner * 2u * p.inner + at % p.inner;
    let gate = gate_up[gate_at];
    // exp of nothing above 0, so that it never overflows.
    let e = exp(-abs(gate));
    let sigmoid = select(e, 1.0, gate >= 0.0) / (1.0 + e);
    y[at] = gate * sigmoid * gate_up[gate_at + p.inner];
}
