// Reading a matrix as src/weights/layout.rs lays it out: operands 2, 3 and 4.
// Gives: FORMAT, bits_of_element, scale_at, offset_at, element_at, piece_at, word_at.

#import shared/blocks
#import shared/floats
#import shared/matrix_in_{2}

override FORMAT: u32 = 0u;   // 0 f32, 1 f16, 2 bf16, 4 or 8: integers of as many bits
override SCALES: u32 = 0u;   // storage of scales: 0 f32, 1 f16, 2 bf16
override OFFSETS: u32 = 0u;  // 1 where offsets are stored

// The scale at `index`, which counts from starts_of on.
fn scale_at(index: u32) -> f32 {
    if SCALES == 0u {
        return bitcast<f32>(scale_word_at(index));
    }
    return unpack2(scale_word_at(index / 2u), SCALES)[index % 2u];
}

// The offset at `index`, beside `scale`.
fn offset_at(index: u32, scale: f32) -> f32 {
    if OFFSETS == 1u {
        return bitcast<f32>(offset_word_at(index));
    }
    return -scale * f32((1u << FORMAT) / 2u);
}

fn bits_of_element() -> u32 {
    if FORMAT == 0u {
        return 32u;
    }
    return select(FORMAT, 16u, FORMAT <= 2u);
}

// Element `k` of row `row`, in rows of `row_words` words and `groups` groups of `group` elements.
fn element_at(row: u32, k: u32, row_words: u32, group: u32, groups: u32) -> f32 {
    let bit = k * bits_of_element();
    let word = word_at(starts_of(vec4(row), row_words / 4u).x + bit / 128u * NEXT, bit / 32u % 4u);
    if FORMAT == 0u {
        return bitcast<f32>(word);
    }
    if FORMAT <= 2u {
        return unpack2(word, FORMAT)[k % 2u];
    }
    let index = starts_of(vec4(row), groups).x + k / group * NEXT;
    let scale = scale_at(index);
    return scale * f32(extractBits(word, bit % 32u, FORMAT)) + offset_at(index, scale);
}
