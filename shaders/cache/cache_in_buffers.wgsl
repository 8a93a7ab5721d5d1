// Cached keys and values in storage buffers, of which rope.wgsl makes one word at a time.
// Gives: store_key, store_value.

@group(0) @binding(6) var<storage, read_write> cached_k: array<u32>;  // [slots, kv_heads * head_dim] f32 or f16
@group(0) @binding(7) var<storage, read_write> cached_v: array<u32>;  // [slots, kv_heads * head_dim] f32 or f16

fn store_key(word: u32, words: array<u32, 4>) {
    cached_k[word] = words[0];
}

fn store_value(word: u32, words: array<u32, 4>) {
    cached_v[word] = words[0];
}
