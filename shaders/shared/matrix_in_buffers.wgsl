// A matrix's words, scales and offsets in storage buffers, row by row.
// Gives: NEXT, starts_of, piece_at, scale_word_at, offset_word_at.

@group(0) @binding(2) var<storage, read> words: array<vec4<u32>>;  // [rows, row_words / 4]
@group(0) @binding(3) var<storage, read> scales: array<u32>;       // [rows, groups]
@group(0) @binding(4) var<storage, read> offsets: array<u32>;      // [rows, groups]

// From a row's piece, scale or offset to its next.
const NEXT = 1u;

// Where rows of `width` pieces, scales or offsets begin.
fn starts_of(rows: vec4<u32>, width: u32) -> vec4<u32> {
    return rows * width;
}

fn piece_at(index: u32) -> vec4<u32> {
    return words[index];
}

fn scale_word_at(index: u32) -> u32 {
    return scales[index];
}

fn offset_word_at(index: u32) -> u32 {
    return offsets[index];
}
