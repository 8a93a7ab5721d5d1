// Keys and values in storage buffers, whose rows and heads are whole 16-byte pieces.

@group(0) @binding(2) var<storage, read> k: array<vec4<u32>>;  // [_, k_width] f32 or f16
@group(0) @binding(3) var<storage, read> v: array<vec4<u32>>;  // [_, v_width] f32 or f16

fn key_piece(index: u32) -> vec4<u32> {
    return k[index];
}

fn value_piece(index: u32) -> vec4<u32> {
    return v[index];
}
