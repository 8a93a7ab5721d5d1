// A matrix's words, scales and offsets in textures of 1024 texels a row: four words a texel, one scale or offset word
// a texel. On a software adapter a load from a buffer is a loop over the lanes with a check each; a texel's is not.
// Gives: piece_at, word_at, scale_word_at, offset_word_at.

#import shared/texel

@group(0) @binding(2) var words: texture_2d<u32>;    // [rows / 32, row_words / 4, 32]
@group(0) @binding(3) var scales: texture_2d<u32>;   // [rows / 32, groups, 32]
@group(0) @binding(4) var offsets: texture_2d<u32>;  // [rows / 32, groups, 32]

fn piece_at(index: u32) -> vec4<u32> {
    return textureLoad(words, texel(index), 0);
}

// Word `i` of a piece.
fn word_at(index: u32, i: u32) -> u32 {
    return piece_at(index)[i];
}

fn scale_word_at(index: u32) -> u32 {
    return textureLoad(scales, texel(index), 0).x;
}

fn offset_word_at(index: u32) -> u32 {
    return textureLoad(offsets, texel(index), 0).x;
}
