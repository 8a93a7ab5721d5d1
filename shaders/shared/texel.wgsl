// Where a texel lies in the textures that hold tensors, 1024 texels a row.
// Gives: texel.

fn texel(index: u32) -> vec2<u32> {
    return vec2(index & 1023u, index >> 10u);
}
