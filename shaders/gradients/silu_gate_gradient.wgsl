// The gradient of silu(gate) * up, with t = sigmoid(gate): dgate = dy up t (1 + gate (1 - t)), dup = dy gate t. An
// invocation an element; f32.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,   // rows * inner
    inner: u32,
}

@group(0) @binding(0) var<storage, read_write> d_gate_up: array<f32>;  // [rows, 2 * inner]: gate, then up
@group(0) @binding(1) var<storage, read> gate_up: array<f32>;          // as d_gate_up
@group(0) @binding(2) var<storage, read> dy: array<f32>;               // [rows, inner]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let gate_at = at / p.inner * 2u * p.inner + at % p.inner;
    let gate = gate_up[gate_at];
    let up = gate_up[gate_at + p.inner];
    // exp of nothing above 0, so that it never overflows; of both, the one that is small is made without a difference.
    let e = exp(-abs(gate));
    let t = select(e, 1.0, gate >= 0.0) / (1.0 + e);
    let rest = select(1.0, e, gate >= 0.0) / (1.0 + e);
    d_gate_up[gate_at] = dy[at] * up * t * (1.0 + gate * rest);
    d_gate_up[gate_at + p.inner] = dy[at] * gate * t;
}
