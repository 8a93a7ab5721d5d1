// Reading a matrix as src/matrix.rs lays it out; matrix_buffers.wgsl or matrix_textures.wgsl tells where it lies.

override FORMAT: u32 = 0u;   // 0 f32, 1 f16, 2 bf16, 4 or 8: integers of as many bits
override SCALES: u32 = 0u;   // storage of scales: 0 f32, 1 f16, 2 bf16
override OFFSETS: u32 = 0u;  // 1 where offsets are stored

// The scale of group `index`, counted over all rows.
fn scale_at(index: u32) -> f32 {
    if SCALES == 0u {
        return bitcast<f32>(scale_word_at(index));
    }
    return unpack2(scale_word_at(index / 2u), SCALES)[index % 2u];
}

// The offset of group `index`, whose scale is `scale`.
fn offset_at(index: u32, scale: f32) -> f32 {
    if OFFSETS == 1u {
        return bitcast<f32>(offset_word_at(index));
    }
    return -scale * f32((1u << FORMAT) / 2u);
}

// Element `k` of row `row`, in rows of `row_words` words and `groups` groups of `group` elements.
fn element_at(row: u32, k: u32, row_words: u32, group: u32, groups: u32) -> f32 {
    let start = row * row_words;
    if FORMAT == 0u {
        return bitcast<f32>(word_at(start + k));
    }
    if FORMAT <= 2u {
        return unpack2(word_at(start + k / 2u), FORMAT)[k % 2u];
    }
    let q = extractBits(word_at(start + k * FORMAT / 32u), k * FORMAT % 32u, FORMAT);
    let index = row * groups + k / group;
    let scale = scale_at(index);
    return scale * f32(q) + offset_at(index, scale);
}
