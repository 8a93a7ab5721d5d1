// Rows of results in a storage buffer, written four elements at a time.

@group(0) @binding(0) var<storage, read_write> y: array<f32>;  // [rows, width]

// Fours that a row takes.
fn fours_of(width: u32) -> u32 {
    return (width + 3u) / 4u;
}

fn put(row: u32, four: u32, width: u32, value: vec4<f32>) {
    for (var i = 0u; i < 4u && 4u * four + i < width; i++) {
        y[row * width + 4u * four + i] = value[i];
    }
}
