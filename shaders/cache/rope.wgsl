// Splits qkv into heads [q.., k.., v..], turns q and k by their row's position and stores k and v in the
// cache: with halves x1, x2 of a head, (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) (Su et al., 2021; "rotate half").
// An invocation makes WORDS neighbouring words of the cache in each half of a head: 1, or 4 where the cache is a texture.

#import cache/cache_in_{6}

override PACKED: u32 = 0u;   // the cache holds: 0 f32, 1 f16
override WORDS: u32 = 1u;
override LANES: u32 = 256u;

struct Params {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    half: u32,      // head_dim / 2
}

@group(0) @binding(0) var<storage, read> qkv: array<f32>;             // [rows, (heads + 2 kv_heads) * head_dim]
@group(0) @binding(1) var<storage, read> cosines: array<f32>;         // [max_positions, half]
@group(0) @binding(2) var<storage, read> sines: array<f32>;           // [max_positions, half]
@group(0) @binding(3) var<storage, read> positions: array<u32>;       // [rows]
@group(0) @binding(4) var<storage, read> slots: array<u32>;           // [rows]
@group(0) @binding(5) var<storage, read_write> q: array<f32>;         // [rows, heads * head_dim]
@group(0) @binding(8) var<uniform> p: Params;

// A word of the cache: one element, or two of 16 bits.
fn pack(v: vec2<f32>) -> u32 {
    if PACKED == 0u {
        return bitcast<u32>(v.x);
    }
    // Beyond the range of f16 the result of packing would be anybody's guess.
    return pack2x16float(clamp(v, vec2(-65504.0), vec2(65504.0)));
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.y;
    let elements = WORDS * (1u + PACKED);
    let units = p.half / elements;
    let head = id.x / units;
    let first = id.x % units * elements;
    if head >= p.heads + 2u * p.kv_heads {
        return;
    }
    var words1: array<u32, 4>;
    var words2: array<u32, 4>;
    for (var n = 0u; n < WORDS; n++) {
        let i = first + n * (1u + PACKED);
        let at = (row * (p.heads + 2u * p.kv_heads) + head) * 2u * p.half + i;
        var x1 = vec2(qkv[at], qkv[at + PACKED]);
        var x2 = vec2(qkv[at + p.half], qkv[at + p.half + PACKED]);
        if head < p.heads + p.kv_heads {
            let angle = positions[row] * p.half + i;
            let c = vec2(cosines[angle], cosines[angle + PACKED]);
            let s = vec2(sines[angle], sines[angle + PACKED]);
            let turned = x1 * c - x2 * s;
            x2 = x2 * c + x1 * s;
            x1 = turned;
        }
        if head < p.heads {
            let to = (row * p.heads + head) * 2u * p.half + i;
            q[to] = x1.x;
            q[to + p.half] = x2.x;
            if PACKED == 1u {
                q[to + 1u] = x1.y;
                q[to + p.half + 1u] = x2.y;
            }
        }
        words1[n] = pack(x1);
        words2[n] = pack(x2);
    }
    if head < p.heads {
        return;
    }
    let kv_head = (head - p.heads) % p.kv_heads;
    let to = (slots[row] * p.kv_heads + kv_head) * 2u * p.half + first;
    let word1 = to / (1u + PACKED);
    let word2 = (to + p.half) / (1u + PACKED);
    if head < p.heads + p.kv_heads {
        store_key(word1, words1);
        store_key(word2, words2);
    } else {
        store_value(word1, words1);
        store_value(word2, words2);
    }
}
