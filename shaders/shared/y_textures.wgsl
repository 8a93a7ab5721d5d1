// Rows of results in a texture, as shaders/stage.wgsl makes them: whole pieces of a matrix, zeros behind the last column.

@group(0) @binding(0) var y: texture_storage_2d<rgba32uint, write>;  // [rows, width rounded up to 32]

// Fours that a row takes.
fn fours_of(width: u32) -> u32 {
    return (width + 31u) / 32u * 8u;
}

fn put(row: u32, four: u32, width: u32, value: vec4<f32>) {
    let index = row * fours_of(width) + four;
    textureStore(y, vec2(index & 1023u, index >> 10u), bitcast<vec4<u32>>(value));
}
