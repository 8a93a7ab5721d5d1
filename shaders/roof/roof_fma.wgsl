// Independent chains of fused multiply-adds in registers: what arithmetic can reach at best.

override LANES: u32 = 64u;

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> sums: array<f32>;       // [invocations]
@group(0) @binding(1) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let step = vec4(f32(id.x % 7u) / 64.0);
    let factor = vec4(0.5);
    var a = vec4(0.0);
    var b = vec4(0.0);
    var c = vec4(0.0);
    var d = vec4(0.0);
    for (var i = 0u; i < p.count; i++) {
        a = fma(a, factor, step);
        b = fma(b, factor, step);
        c = fma(c, factor, step);
        d = fma(d, factor, step);
    }
    let all = a + b + c + d;
    sums[id.x] = all.x + all.y + all.z + all.w;
}
