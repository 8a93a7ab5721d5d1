// Reads a whole buffer, neighbouring invocations neighbouring 16-byte pieces: what reading can reach at best.

override LANES: u32 = 64u;

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> words: array<vec4<u32>>;      // [count]
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;       // [invocations]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var all = vec4(0u);
    for (var i = id.x; i < p.count; i += groups.x * LANES) {
        all ^= words[i];
    }
    sums[id.x] = all.x ^ all.y ^ all.z ^ all.w;
}
