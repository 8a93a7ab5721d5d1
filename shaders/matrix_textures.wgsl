// A matrix's words, scales and offsets in textures of 1024 texels a row: four words a texel, one scale or offset word
// a texel. On a software adapter a load from a buffer is a loop over the lanes with a check each; a texel's is not.

@group(0) @binding(1) var words: texture_2d<u32>;    // [rows, row_words / 4]
@group(0) @binding(2) var scales: texture_2d<u32>;   // [rows, groups]
@group(0) @binding(3) var offsets: texture_2d<u32>;  // [rows, groups]

fn texel(index: u32) -> vec2<u32> {
    return vec2(index & 1023u, index >> 10u);
}

fn piece_at(index: u32) -> vec4<u32> {
    return textureLoad(words, texel(index), 0);
}

fn word_at(index: u32) -> u32 {
    return piece_at(index / 4u)[index % 4u];
}

fn scale_word_at(index: u32) -> u32 {
    return textureLoad(scales, texel(index), 0).x;
}

fn offset_word_at(index: u32) -> u32 {
    return textureLoad(offsets, texel(index), 0).x;
}
