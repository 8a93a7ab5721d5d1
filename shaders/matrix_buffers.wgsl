// A matrix's words, scales and offsets in storage buffers.

@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;  // [rows, row_words / 4]
@group(0) @binding(2) var<storage, read> scales: array<u32>;       // [rows, groups]
@group(0) @binding(3) var<storage, read> offsets: array<u32>;      // [rows, groups]

fn piece_at(index: u32) -> vec4<u32> {
    return words[index];
}

fn word_at(index: u32) -> u32 {
    return words[index / 4u][index % 4u];
}

fn scale_word_at(index: u32) -> u32 {
    return scales[index];
}

fn offset_word_at(index: u32) -> u32 {
    return offsets[index];
}
