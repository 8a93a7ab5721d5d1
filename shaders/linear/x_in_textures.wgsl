// The rows of x in a texture, as shaders/linear/stage.wgsl makes it.
// Gives: x_at.

#import shared/texel

@group(0) @binding(1) var x: texture_2d<u32>;  // [rows, x_width / 4]

fn x_at(index: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(textureLoad(x, texel(index), 0));
}
