// Keys and values in storage buffers, of any width; of f16, an even one.
// Gives: key_at, key_four, value_at, value_four.

override K_FORMAT: u32 = 0u;   // 0 f32, 1 f16
override V_FORMAT: u32 = 0u;

@group(0) @binding(2) var<storage, read> k: array<u32>;  // [_, k_width]
@group(0) @binding(3) var<storage, read> v: array<u32>;  // [_, v_width]

fn key_at(index: u32) -> f32 {
    if K_FORMAT == 1u {
        return unpack2x16float(k[index / 2u])[index % 2u];
    }
    return bitcast<f32>(k[index]);
}

fn value_at(index: u32) -> f32 {
    if V_FORMAT == 1u {
        return unpack2x16float(v[index / 2u])[index % 2u];
    }
    return bitcast<f32>(v[index]);
}

// Four elements from `index` on; of f16, an even one.
fn key_four(index: u32) -> vec4<f32> {
    if K_FORMAT == 1u {
        return vec4(unpack2x16float(k[index / 2u]), unpack2x16float(k[index / 2u + 1u]));
    }
    return bitcast<vec4<f32>>(vec4(k[index], k[index + 1u], k[index + 2u], k[index + 3u]));
}

fn value_four(index: u32) -> vec4<f32> {
    if V_FORMAT == 1u {
        return vec4(unpack2x16float(v[index / 2u]), unpack2x16float(v[index / 2u + 1u]));
    }
    return bitcast<vec4<f32>>(vec4(v[index], v[index + 1u], v[index + 2u], v[index + 3u]));
}
