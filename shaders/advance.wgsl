// past += 1; positions += 1; slots = table[:, past]: one workgroup.

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    capacity: u32,
}

@group(0) @binding(0) var<storage, read> table: array<u32>;             // [rows, capacity]
@group(0) @binding(1) var<storage, read_write> past: array<u32>;        // [1]
@group(0) @binding(2) var<storage, read_write> positions: array<u32>;   // [rows]
@group(0) @binding(3) var<storage, read_write> slots: array<u32>;       // [rows]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    let now = past[0] + 1u;
    storageBarrier();
    for (var row = lane; row < p.rows; row += LANES) {
        positions[row] += 1u;
        slots[row] = table[row * p.capacity + min(now, p.capacity - 1u)];
    }
    if lane == 0u {
        past[0] = now;
    }
}
