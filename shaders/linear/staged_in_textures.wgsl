// Staged rows in a texture, made a texel of four words at a time.
// Gives: WORDS, store.

#import shared/texel

@group(0) @binding(1) var y: texture_storage_2d<rgba32uint, write>;  // [rows, width / 4]

const WORDS = 4u;

fn store(index: u32, words: vec4<u32>) {
    textureStore(y, texel(index), words);
}
