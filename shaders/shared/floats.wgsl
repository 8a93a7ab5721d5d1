// The lowest finite f32, 16-bit floats in 32-bit words, and what floats' bits tell.
// Gives: LOWEST, unpack2, not_finite, order_of.

const LOWEST: f32 = -3.4028234663852886e38;

// Storage of a value: 0 f32, 1 f16, 2 bf16.
fn unpack2(word: u32, dtype: u32) -> vec2<f32> {
    if dtype == 2u {
        return vec2(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
    }
    return unpack2x16float(word);
}

// NaN or infinite, told by the bits: compilers may assume that neither occurs.
fn not_finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) == 0x7f800000u;
}

// A float's bits as an integer of the same order; both zeros give the same.
fn order_of(bits: u32) -> u32 {
    if bits == 0x80000000u {
        return bits;
    }
    return bits ^ select(0x80000000u, 0xffffffffu, bits > 0x80000000u);
}
