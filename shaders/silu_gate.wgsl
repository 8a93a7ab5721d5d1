// silu(gate) * up, an invocation an element.

override LANES: u32 = 64u;

struct Params {
    count: u32,
    inner: u32,
}

@group(0) @binding(0) var<storage, read> gate_up: array<f32>;     // [rows, 2 * inner]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;     // [rows, inner]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.count {
        return;
    }
    let at = id / p.inner * 2u * p.inner + id % p.inner;
    let gate = gate_up[at];
    y[id] = gate / (1.0 + exp(-gate)) * gate_up[at + p.inner];
}
