// y = residual + layer_scale * (x W^T + bias): the fast kernel. An invocation makes 4 neighbouring outputs of ROWS
// (1, 4 or 8) rows: a weight is read 16 bytes at a time and unpacked once for all rows, a value of x is read once for
// 4 outputs, and an integer's scale and offset are applied once a piece, to the sums of q * x and of x.
// Sums in f32. Weights as src/matrix.rs lays them out; groups are whole 16-byte pieces.

override ROWS: u32 = 1u;
override PER_WORD: u32 = 1u;     // elements in a 32-bit word
override LANES: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<f32>;            // [rows, cols]

// Sums of q * x of the current piece: for each row, of 4 outputs. Without scales these are the sums of all pieces.
var<private> d0: vec4<f32>;
var<private> d1: vec4<f32>;
var<private> d2: vec4<f32>;
var<private> d3: vec4<f32>;
var<private> d4: vec4<f32>;
var<private> d5: vec4<f32>;
var<private> d6: vec4<f32>;
var<private> d7: vec4<f32>;
// Sums of x of the current piece, a row a component.
var<private> sums_a: vec4<f32>;
var<private> sums_b: vec4<f32>;
// Where the rows begin in x.
var<private> rows_a: vec4<u32>;
var<private> rows_b: vec4<u32>;

// Column k of all rows times the weights of 4 outputs.
fn column(w: vec4<f32>, k: u32) {
    if ROWS == 1u {
        let v = x[rows_a.x + k];
        d0 += w * v;
        if FORMAT >= 4u {
            sums_a.x += v;
        }
        return;
    }
    let a = vec4(x[rows_a.x + k], x[rows_a.y + k], x[rows_a.z + k], x[rows_a.w + k]);
    d0 += w * a.x;
    d1 += w * a.y;
    d2 += w * a.z;
    d3 += w * a.w;
    if FORMAT >= 4u {
        sums_a += a;
    }
    if ROWS == 8u {
        let b = vec4(x[rows_b.x + k], x[rows_b.y + k], x[rows_b.z + k], x[rows_b.w + k]);
        d4 += w * b.x;
        d5 += w * b.y;
        d6 += w * b.z;
        d7 += w * b.w;
        if FORMAT >= 4u {
            sums_b += b;
        }
    }
}

// Element e of a word of each of 4 outputs.
fn weights_of(w: vec4<u32>, e: u32) -> vec4<f32> {
    if FORMAT == 0u {
        return bitcast<vec4<f32>>(w);
    }
    if FORMAT == 1u {
        return vec4(
            unpack2x16float(w.x)[e],
            unpack2x16float(w.y)[e],
            unpack2x16float(w.z)[e],
            unpack2x16float(w.w)[e],
        );
    }
    if FORMAT == 2u {
        return bitcast<vec4<f32>>(select(w & vec4(0xffff0000u), w << vec4(16u), e == 0u));
    }
    return vec4<f32>(extractBits(w, e * FORMAT, FORMAT));
}

// One word of each of 4 outputs: columns k .. k + PER_WORD.
fn word_of_each(w: vec4<u32>, k: u32) {
    for (var e = 0u; e < PER_WORD; e++) {
        column(weights_of(w, e), k + e);
    }
}

fn scaled(dots: vec4<f32>, sum: f32, scale: vec4<f32>, offset: vec4<f32>) -> vec4<f32> {
    return scale * dots + offset * sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let output = id.x * 4u;
    if output >= p.outputs {
        return;
    }
    let first = id.y * ROWS;
    let last = p.rows - 1u;
    // Rows and outputs beyond the last repeat it and are not written.
    rows_a = min(vec4(first, first + 1u, first + 2u, first + 3u), vec4(last)) * p.x_width;
    rows_b = min(vec4(first + 4u, first + 5u, first + 6u, first + 7u), vec4(last)) * p.x_width;
    let outputs = min(vec4(output, output + 1u, output + 2u, output + 3u), vec4(p.outputs - 1u));
    var s0 = vec4(0.0);
    var s1 = vec4(0.0);
    var s2 = vec4(0.0);
    var s3 = vec4(0.0);
    var s4 = vec4(0.0);
    var s5 = vec4(0.0);
    var s6 = vec4(0.0);
    var s7 = vec4(0.0);
    let per_piece = 4u * PER_WORD;
    let pieces = p.row_words / 4u;
    for (var piece = 0u; piece < pieces; piece++) {
        let k = piece * per_piece;
        let at = outputs * pieces + piece;
        let a = piece_at(at.x);
        let b = piece_at(at.y);
        let c = piece_at(at.z);
        let d = piece_at(at.w);
        if k + per_piece <= p.cols {
            word_of_each(vec4(a.x, b.x, c.x, d.x), k);
            word_of_each(vec4(a.y, b.y, c.y, d.y), k + PER_WORD);
            word_of_each(vec4(a.z, b.z, c.z, d.z), k + 2u * PER_WORD);
            word_of_each(vec4(a.w, b.w, c.w, d.w), k + 3u * PER_WORD);
        } else {
            for (var i = 0u; k + i < p.cols; i++) {
                let word = i / PER_WORD;
                column(weights_of(vec4(a[word], b[word], c[word], d[word]), i % PER_WORD), k + i);
            }
        }
        if FORMAT >= 4u {
            let group = outputs * p.groups + k / p.group;
            let scale = vec4(scale_at(group.x), scale_at(group.y), scale_at(group.z), scale_at(group.w));
            let offset = vec4(
                offset_at(group.x, scale.x),
                offset_at(group.y, scale.y),
                offset_at(group.z, scale.z),
                offset_at(group.w, scale.w),
            );
            s0 += scaled(d0, sums_a.x, scale, offset);
            d0 = vec4(0.0);
            if ROWS >= 4u {
                s1 += scaled(d1, sums_a.y, scale, offset);
                s2 += scaled(d2, sums_a.z, scale, offset);
                s3 += scaled(d3, sums_a.w, scale, offset);
                d1 = vec4(0.0);
                d2 = vec4(0.0);
                d3 = vec4(0.0);
            }
            if ROWS == 8u {
                s4 += scaled(d4, sums_b.x, scale, offset);
                s5 += scaled(d5, sums_b.y, scale, offset);
                s6 += scaled(d6, sums_b.z, scale, offset);
                s7 += scaled(d7, sums_b.w, scale, offset);
                d4 = vec4(0.0);
                d5 = vec4(0.0);
                d6 = vec4(0.0);
                d7 = vec4(0.0);
            }
            sums_a = vec4(0.0);
            sums_b = vec4(0.0);
        }
    }
    write_outputs(first, output, s0 + d0);
    if ROWS >= 4u {
        write_outputs(first + 1u, output, s1 + d1);
        write_outputs(first + 2u, output, s2 + d2);
        write_outputs(first + 3u, output, s3 + d3);
    }
    if ROWS == 8u {
        write_outputs(first + 4u, output, s4 + d4);
        write_outputs(first + 5u, output, s5 + d5);
        write_outputs(first + 6u, output, s6 + d6);
        write_outputs(first + 7u, output, s7 + d7);
    }
}
