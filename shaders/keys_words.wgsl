// Keys and values in storage buffers, of any width.

@group(0) @binding(2) var<storage, read> k: array<u32>;  // [_, k_width] f32 or f16
@group(0) @binding(3) var<storage, read> v: array<u32>;  // [_, v_width] f32 or f16

fn key_word(index: u32) -> u32 {
    return k[index];
}

fn value_word(index: u32) -> u32 {
    return v[index];
}
