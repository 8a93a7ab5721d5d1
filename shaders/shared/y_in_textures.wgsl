// Rows of results in a texture, as shaders/linear/stage.wgsl makes them: whole pieces of a matrix, zeros behind the last column.
// Gives: fours_of, put.

#import shared/texel

@group(0) @binding(0) var y: texture_storage_2d<rgba32uint, write>;  // [rows, width rounded up to 32]

// Fours that a row takes.
fn fours_of(width: u32) -> u32 {
    return (width + 31u) / 32u * 8u;
}

fn put(row: u32, four: u32, width: u32, value: vec4<f32>) {
    let index = row * fours_of(width) + four;
    textureStore(y, texel(index), bitcast<vec4<u32>>(value));
}
