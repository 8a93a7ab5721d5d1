// Cached keys and values in textures of 1024 texels a row, four words a texel.
// Gives: store_key, store_value.

#import shared/texel

@group(0) @binding(6) var cached_k: texture_storage_2d<rgba32uint, write>;  // [slots, kv_heads * head_dim] f32 or f16
@group(0) @binding(7) var cached_v: texture_storage_2d<rgba32uint, write>;  // [slots, kv_heads * head_dim] f32 or f16

fn store_key(word: u32, words: array<u32, 4>) {
    let index = word / 4u;
    textureStore(cached_k, texel(index), vec4(words[0], words[1], words[2], words[3]));
}

fn store_value(word: u32, words: array<u32, 4>) {
    let index = word / 4u;
    textureStore(cached_v, texel(index), vec4(words[0], words[1], words[2], words[3]));
}
