// Keys and values in textures of 1024 texels a row, a 16-byte piece a texel: see matrix_textures.wgsl.

@group(0) @binding(2) var k: texture_2d<u32>;  // [_, k_width] f32 or f16
@group(0) @binding(3) var v: texture_2d<u32>;  // [_, v_width] f32 or f16

fn key_piece(index: u32) -> vec4<u32> {
    return textureLoad(k, vec2(index & 1023u, index >> 10u), 0);
}

fn value_piece(index: u32) -> vec4<u32> {
    return textureLoad(v, vec2(index & 1023u, index >> 10u), 0);
}

fn key_word(index: u32) -> u32 {
    return key_piece(index / 4u)[index % 4u];
}

fn value_word(index: u32) -> u32 {
    return value_piece(index / 4u)[index % 4u];
}
