// Rows of results in a storage buffer, written four elements at a time.
// Gives: fours_of, put, put_one.

@group(0) @binding(0) var<storage, read_write> y: array<f32>;  // [rows, width]

// Fours that a row takes.
fn fours_of(width: u32) -> u32 {
    return (width + 3u) / 4u;
}

fn put(row: u32, four: u32, width: u32, value: vec4<f32>) {
    let at = row * width + 4u * four;
    let left = width - 4u * four;
    y[at] = value.x;
    if left > 1u {
        y[at + 1u] = value.y;
    }
    if left > 2u {
        y[at + 2u] = value.z;
    }
    if left > 3u {
        y[at + 3u] = value.w;
    }
}

fn put_one(row: u32, column: u32, width: u32, value: f32) {
    y[row * width + column] = value;
}
