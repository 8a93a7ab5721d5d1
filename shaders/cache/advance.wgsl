// After a decode step, for the next one: past += 1, positions += 1, slots[b] = table[b, past]. One workgroup.

override LANES: u32 = 64u;

struct Params {
    batch: u32,
    capacity: u32,
}

@group(0) @binding(0) var<storage, read> table: array<u32>;            // [batch, capacity]
@group(0) @binding(1) var<storage, read_write> past: array<u32>;       // [1]
@group(0) @binding(2) var<storage, read_write> positions: array<u32>;  // [batch]
@group(0) @binding(3) var<storage, read_write> slots: array<u32>;      // [batch]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    let now = past[0] + 1u;
    // All lanes have read it before it changes.
    storageBarrier();
    if lane == 0u {
        past[0] = now;
    }
    for (var b = lane; b < p.batch; b += LANES) {
        positions[b] += 1u;
        slots[b] = table[b * p.capacity + min(now, p.capacity - 1u)];
    }
}
