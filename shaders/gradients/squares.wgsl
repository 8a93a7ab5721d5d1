// The sum of the squares of a tensor's elements, a part a workgroup: the host adds the parts up. Sums in f32.

#import shared/reductions

override LANES: u32 = 64u;

struct Params {
    count: u32,
    first: u32,    // the place of the first part
    parts: u32,
}

@group(0) @binding(0) var<storage, read_write> sums: array<f32>;  // [_]
@group(0) @binding(1) var<storage, read> x: array<f32>;           // [count]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = group.x * LANES + lane; i < p.count; i += p.parts * LANES) {
        sum += x[i] * x[i];
    }
    sum = sum_of_lanes(sum, lane, LANES);
    if lane == 0u {
        sums[p.first + group.x] = sum;
    }
}
