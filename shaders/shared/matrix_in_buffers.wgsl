// A matrix's words, scales and offsets in storage buffers.
// Gives: piece_at, word_at, scale_word_at, offset_word_at.

@group(0) @binding(2) var<storage, read> words: array<vec4<u32>>;  // [rows / 32, row_words / 4, 32]
@group(0) @binding(3) var<storage, read> scales: array<u32>;       // [rows / 32, groups, 32]
@group(0) @binding(4) var<storage, read> offsets: array<u32>;      // [rows / 32, groups, 32]

fn piece_at(index: u32) -> vec4<u32> {
    return words[index];
}

// Word `i` of a piece.
fn word_at(index: u32, i: u32) -> u32 {
    return words[index][i];
}

fn scale_word_at(index: u32) -> u32 {
    return scales[index];
}

fn offset_word_at(index: u32) -> u32 {
    return offsets[index];
}
