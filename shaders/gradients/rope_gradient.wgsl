// The gradient of rope.wgsl: turns dq and dk back by their row's position, and puts dq, dk, dv beside each other:
// (dx1, dx2) = (dy1 cos + dy2 sin, dy2 cos - dy1 sin). An invocation an element of a half.

override LANES: u32 = 256u;

struct Params {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    half: u32,      // head_dim / 2
}

@group(0) @binding(0) var<storage, read_write> dqkv: array<f32>;  // [rows, (heads + 2 kv_heads) * head_dim]
@group(0) @binding(1) var<storage, read> dq: array<f32>;          // [rows, heads * head_dim]
@group(0) @binding(2) var<storage, read> dkv: array<f32>;         // [rows, 2 kv_heads * head_dim]: dk, then dv
@group(0) @binding(3) var<storage, read> cosines: array<f32>;     // [max_positions, half]
@group(0) @binding(4) var<storage, read> sines: array<f32>;       // [max_positions, half]
@group(0) @binding(5) var<storage, read> positions: array<u32>;   // [rows]
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.y;
    let head = id.x / p.half;
    let i = id.x % p.half;
    let all = p.heads + 2u * p.kv_heads;
    if head >= all {
        return;
    }
    var y1 = 0.0;
    var y2 = 0.0;
    if head < p.heads {
        let start = (row * p.heads + head) * 2u * p.half + i;
        y1 = dq[start];
        y2 = dq[start + p.half];
    } else {
        let start = (row * 2u * p.kv_heads + head - p.heads) * 2u * p.half + i;
        y1 = dkv[start];
        y2 = dkv[start + p.half];
    }
    var c = 1.0;
    var s = 0.0;
    if head < p.heads + p.kv_heads {
        c = cosines[positions[row] * p.half + i];
        s = sines[positions[row] * p.half + i];
    }
    let to = (row * all + head) * 2u * p.half + i;
    dqkv[to] = y1 * c + y2 * s;
    dqkv[to + p.half] = y2 * c - y1 * s;
}
