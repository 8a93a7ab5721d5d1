// The elements of a matrix's words as f32: of four words, one an output.
// Gives: low, high, byte_of.

#import shared/matrix

// The first 16-bit float of each word.
fn low(w: vec4<u32>) -> vec4<f32> {
    if FORMAT == 2u {
        return bitcast<vec4<f32>>(w << vec4(16u));
    }
    return vec4(unpack2x16float(w.x).x, unpack2x16float(w.y).x, unpack2x16float(w.z).x, unpack2x16float(w.w).x);
}

// The second.
fn high(w: vec4<u32>) -> vec4<f32> {
    if FORMAT == 2u {
        return bitcast<vec4<f32>>(w & vec4(0xffff0000u));
    }
    return vec4(unpack2x16float(w.x).y, unpack2x16float(w.y).y, unpack2x16float(w.z).y, unpack2x16float(w.w).y);
}

// Byte `i` of each word.
fn byte_of(w: vec4<u32>, i: u32) -> vec4<f32> {
    return vec4<f32>((w >> vec4(8u * i)) & vec4(0xffu));
}
