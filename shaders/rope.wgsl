// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) for the halves of each query and key head; keys and values go to the
// cache. An invocation turns two neighbouring pairs. f32; the cache may be f16.

override STORED: u32 = 0u;      // the cache: 0 f32, 1 f16, two in a word
override LANES: u32 = 64u;

struct Params {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<f32>;           // [rows, (heads + 2 kv_heads) * head_dim]
@group(0) @binding(1) var<storage, read> cosines: array<f32>;       // [positions, head_dim / 2]
@group(0) @binding(2) var<storage, read> sines: array<f32>;         // [positions, head_dim / 2]
@group(0) @binding(3) var<storage, read> positions: array<u32>;     // [rows]
@group(0) @binding(4) var<storage, read> slots: array<u32>;         // [rows]
@group(0) @binding(5) var<storage, read_write> q: array<f32>;       // [rows, heads * head_dim]
@group(0) @binding(6) var<storage, read_write> k: array<u32>;       // [slots, kv_heads * head_dim]
@group(0) @binding(7) var<storage, read_write> v: array<u32>;       // [slots, kv_heads * head_dim]
@group(0) @binding(8) var<uniform> p: Params;

fn store_k(index: u32, a: f32, b: f32, both: bool) {
    if STORED == 1u {
        k[index / 2u] = pack2x16float(vec2(a, b));
        return;
    }
    k[index] = bitcast<u32>(a);
    if both {
        k[index + 1u] = bitcast<u32>(b);
    }
}

fn store_v(index: u32, a: f32, b: f32, both: bool) {
    if STORED == 1u {
        v[index / 2u] = pack2x16float(vec2(a, b));
        return;
    }
    v[index] = bitcast<u32>(a);
    if both {
        v[index + 1u] = bitcast<u32>(b);
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let all_heads = p.heads + 2u * p.kv_heads;
    let units = (p.head_dim + 3u) / 4u;
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.rows * all_heads * units {
        return;
    }
    let i = id % units * 2u;
    let head = id / units % all_heads;
    let row = id / units / all_heads;
    let half = p.head_dim / 2u;
    let both = i + 1u < half;
    let next = select(0u, 1u, both);
    let from_x = (row * all_heads + head) * p.head_dim + i;
    let x1 = vec2(qkv[from_x], qkv[from_x + next]);
    let x2 = vec2(qkv[from_x + half], qkv[from_x + half + next]);
    if head >= p.heads + p.kv_heads {
        let to = (slots[row] * p.kv_heads + head - p.heads - p.kv_heads) * p.head_dim + i;
        store_v(to, x1.x, x1.y, both);
        store_v(to + half, x2.x, x2.y, both);
        return;
    }
    let angle = positions[row] * half + i;
    let c = vec2(cosines[angle], cosines[angle + next]);
    let s = vec2(sines[angle], sines[angle + next]);
    let y1 = x1 * c - x2 * s;
    let y2 = x2 * c + x1 * s;
    if head >= p.heads {
        let to = (slots[row] * p.kv_heads + head - p.heads) * p.head_dim + i;
        store_k(to, y1.x, y1.y, both);
        store_k(to + half, y2.x, y2.y, both);
        return;
    }
    let to = (row * p.heads + head) * p.head_dim + i;
    q[to] = y1.x;
    q[to + half] = y2.x;
    if both {
        q[to + 1u] = y1.y;
        q[to + half + 1u] = y2.y;
    }
}
