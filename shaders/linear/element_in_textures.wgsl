// Rows of x in a texture, whole 16-byte pieces each.
// Gives: element_of_x.

#import shared/texel

@group(0) @binding(1) var x: texture_2d<u32>;                      // [rows, x_width]

fn element_of_x(i: u32) -> f32 {
    return bitcast<f32>(textureLoad(x, texel(i / 4u), 0)[i % 4u]);
}
