// y = residual + layer_scale * (x W^T + bias), with x and W in textures: the fast kernel of software adapters. An
// invocation makes 4 neighbouring outputs of ROWS rows (1 or 4). Sums in f32. Weights as src/matrix.rs lays them out,
// in groups of whole 16-byte pieces; x as shaders/stage.wgsl lays it out, rows of whole pieces.
// Bought on lavapipe, in weights (ROWS 1) and multiply-adds (ROWS 4) a second on two cores: linear_tile's loads from
// buffers 0.6 and 1.0 G; x and W in textures 5.3 and 9.4 G; conversions from signed integers 5.4 and 10.2 G.

override ROWS: u32 = 1u;
override PER_WORD: u32 = 1u;  // elements in a 32-bit word: texels of x in a piece
override LANES: u32 = 8u;

@group(0) @binding(0) var x: texture_2d<u32>;                      // [rows, x_width / 4]

// Texels at which the rows of x begin.
var<private> rows: vec4<u32>;
// Of the current group: sums of q * x, a column a row and a component an output, and sums of x. Without scales, dots
// are the sums of all groups.
var<private> dots: mat4x4<f32>;
var<private> sums: vec4<f32>;

fn x_at(index: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(textureLoad(x, texel(index), 0));
}

// Four neighbouring columns, at texel `at` of the rows of x; `w` has a column of W a column, an output a component.
fn columns(w: mat4x4<f32>, at: u32) {
    if ROWS == 1u {
        let x1 = x_at(rows.x + at);
        dots[0] += w * x1;
        if FORMAT >= 4u {
            sums.x += dot(vec4(1.0), x1);
        }
    } else {
        let x4 = mat4x4(x_at(rows.x + at), x_at(rows.y + at), x_at(rows.z + at), x_at(rows.w + at));
        dots += w * x4;
        if FORMAT >= 4u {
            sums += vec4(1.0) * x4;
        }
    }
}

fn low(w: vec4<u32>) -> vec4<f32> {
    if FORMAT == 2u {
        return bitcast<vec4<f32>>(w << vec4(16u));
    }
    return vec4(unpack2x16float(w.x).x, unpack2x16float(w.y).x, unpack2x16float(w.z).x, unpack2x16float(w.w).x);
}

fn high(w: vec4<u32>) -> vec4<f32> {
    if FORMAT == 2u {
        return bitcast<vec4<f32>>(w & vec4(0xffff0000u));
    }
    return vec4(unpack2x16float(w.x).y, unpack2x16float(w.y).y, unpack2x16float(w.z).y, unpack2x16float(w.w).y);
}

// Integers from bit `shift` on; a signed conversion is one instruction where an unsigned one is many.
fn integers(w: vec4<u32>, shift: u32) -> vec4<f32> {
    return vec4<f32>(vec4<i32>((w >> vec4(shift)) & vec4((1u << FORMAT) - 1u)));
}

// Four integers of each word, from bit `shift` on.
fn four(w: vec4<u32>, shift: u32) -> mat4x4<f32> {
    return mat4x4(
        integers(w, shift),
        integers(w, shift + FORMAT),
        integers(w, shift + 2u * FORMAT),
        integers(w, shift + 3u * FORMAT),
    );
}

// One piece of 4 outputs, each word a vector with an output a component; `at` is its first texel of x.
fn piece(w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>, at: u32) {
    if FORMAT == 0u {
        let w = mat4x4(bitcast<vec4<f32>>(w0), bitcast<vec4<f32>>(w1), bitcast<vec4<f32>>(w2), bitcast<vec4<f32>>(w3));
        columns(w, at);
    } else if FORMAT <= 2u {
        columns(mat4x4(low(w0), high(w0), low(w1), high(w1)), at);
        columns(mat4x4(low(w2), high(w2), low(w3), high(w3)), at + 1u);
    } else if FORMAT == 8u {
        columns(four(w0, 0u), at);
        columns(four(w1, 0u), at + 1u);
        columns(four(w2, 0u), at + 2u);
        columns(four(w3, 0u), at + 3u);
    } else {
        columns(four(w0, 0u), at);
        columns(four(w0, 16u), at + 1u);
        columns(four(w1, 0u), at + 2u);
        columns(four(w1, 16u), at + 3u);
        columns(four(w2, 0u), at + 4u);
        columns(four(w2, 16u), at + 5u);
        columns(four(w3, 0u), at + 6u);
        columns(four(w3, 16u), at + 7u);
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let output = id.x * 4u;
    if output >= p.outputs {
        return;
    }
    let row = id.y * ROWS;
    // Rows and outputs beyond the last repeat it and are not written.
    rows = min(vec4(row, row + 1u, row + 2u, row + 3u), vec4(p.rows - 1u)) * (p.x_width / 4u);
    let outputs = min(vec4(output, output + 1u, output + 2u, output + 3u), vec4(p.outputs - 1u));
    let pieces = p.row_words / 4u;
    let starts = outputs * pieces;
    let first_groups = outputs * p.groups;
    let pieces_a_group = (p.group - 1u) / (4u * PER_WORD) + 1u;
    var totals = mat4x4<f32>();
    var group = 0u;
    for (var first = 0u; first < pieces; first += pieces_a_group) {
        for (var i = first; i < min(first + pieces_a_group, pieces); i++) {
            let a = piece_at(starts.x + i);
            let b = piece_at(starts.y + i);
            let c = piece_at(starts.z + i);
            let d = piece_at(starts.w + i);
            piece(
                vec4(a.x, b.x, c.x, d.x),
                vec4(a.y, b.y, c.y, d.y),
                vec4(a.z, b.z, c.z, d.z),
                vec4(a.w, b.w, c.w, d.w),
                i * PER_WORD,
            );
        }
        if FORMAT < 4u {
            continue;
        }
        let at = first_groups + group;
        let scale = vec4(scale_at(at.x), scale_at(at.y), scale_at(at.z), scale_at(at.w));
        let offset = vec4(
            offset_at(at.x, scale.x),
            offset_at(at.y, scale.y),
            offset_at(at.z, scale.z),
            offset_at(at.w, scale.w),
        );
        totals[0] += scale * dots[0] + offset * sums.x;
        if ROWS > 1u {
            totals[1] += scale * dots[1] + offset * sums.y;
            totals[2] += scale * dots[2] + offset * sums.z;
            totals[3] += scale * dots[3] + offset * sums.w;
        }
        dots = mat4x4<f32>();
        sums = vec4(0.0);
        group++;
    }
    totals += dots;
    write_outputs(row, output, totals[0]);
    if ROWS > 1u {
        write_outputs(row + 1u, output, totals[1]);
        write_outputs(row + 2u, output, totals[2]);
        write_outputs(row + 3u, output, totals[3]);
    }
}
