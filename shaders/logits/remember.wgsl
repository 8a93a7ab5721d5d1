// Joins the tokens of a step to the ids that penalties see: history[row, lengths[0]] = tokens[row], then lengths[0] += 1.
// One workgroup.

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    capacity: u32,
}

@group(0) @binding(0) var<storage, read> tokens: array<u32>;          // [rows]
@group(0) @binding(1) var<storage, read_write> history: array<u32>;   // [rows, capacity]
@group(0) @binding(2) var<storage, read_write> lengths: array<u32>;   // [2]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    let length = lengths[0];
    // All lanes have read it before it changes.
    storageBarrier();
    if lane == 0u {
        lengths[0] = length + 1u;
    }
    if length >= p.capacity {
        return;
    }
    for (var row = lane; row < p.rows; row += LANES) {
        history[row * p.capacity + length] = tokens[row];
    }
}
