// Keys and values in textures of 1024 texels a row: see shared/matrix_in_textures.wgsl. Rows and heads are whole 16-byte pieces, a
// texel each.
// Gives: K_FORMAT, V_FORMAT, key_piece, value_piece, four_of, key_at, key_four, value_at, value_four.

#import shared/texel

override K_FORMAT: u32 = 0u;   // 0 f32, 1 f16
override V_FORMAT: u32 = 0u;

@group(0) @binding(2) var k: texture_2d<u32>;  // [_, k_width]
@group(0) @binding(3) var v: texture_2d<u32>;  // [_, v_width]

fn key_piece(index: u32) -> vec4<u32> {
    return textureLoad(k, texel(index), 0);
}

fn value_piece(index: u32) -> vec4<u32> {
    return textureLoad(v, texel(index), 0);
}

// Four elements of a piece: all of it, or one half.
fn four_of(piece: vec4<u32>, format: u32, half: u32) -> vec4<f32> {
    if format == 0u {
        return bitcast<vec4<f32>>(piece);
    }
    let words = select(piece.xy, piece.zw, half == 1u);
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Four elements from `index`, a multiple of 4, on.
fn key_four(index: u32) -> vec4<f32> {
    return four_of(key_piece(index / (4u + 4u * K_FORMAT)), K_FORMAT, index / 4u % 2u);
}

fn value_four(index: u32) -> vec4<f32> {
    return four_of(value_piece(index / (4u + 4u * V_FORMAT)), V_FORMAT, index / 4u % 2u);
}

fn key_at(index: u32) -> f32 {
    return key_four(index / 4u * 4u)[index % 4u];
}

fn value_at(index: u32) -> f32 {
    return value_four(index / 4u * 4u)[index % 4u];
}
