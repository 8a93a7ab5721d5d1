// table[row, c] = old table[parents[row], c] for first <= c < past, in place: an invocation takes a column of one
// group of rows, and reads it whole before it writes. Integers only.

override LANES: u32 = 64u;
override WORDS: u32 = 4096u;     // beams * LANES

struct Params {
    beams: u32,
    capacity: u32,
    first: u32,
}

@group(0) @binding(0) var<storage, read> parents: array<u32>;       // [groups * beams]
@group(0) @binding(1) var<storage, read> past: array<u32>;          // [1]
@group(0) @binding(2) var<storage, read_write> table: array<u32>;   // [groups * beams, capacity]
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> old: array<u32, WORDS>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = p.first + group.x * LANES + lane;
    if column >= min(past[0], p.capacity) {
        return;
    }
    let row = group.y * p.beams;
    for (var beam = 0u; beam < p.beams; beam++) {
        old[beam * LANES + lane] = table[(row + beam) * p.capacity + column];
    }
    for (var beam = 0u; beam < p.beams; beam++) {
        let parent = min(parents[row + beam] - row, p.beams - 1u);
        table[(row + beam) * p.capacity + column] = old[parent * LANES + lane];
    }
}
