// Products of rows of x with a matrix, for software adapters: an invocation makes one or two fours of outputs of ROWS
// rows (1 or 4). Sums in f32. Weights as src/weights/layout.rs lays them out, in groups of whole 16-byte pieces; rows of x
// are whole pieces too.
// What each step bought on lavapipe, two cores, 4-bit weights in groups of 32, in multiply-adds a second with 1 row and
// with many: an invocation for 4 outputs, W and x in buffers, 0.6 G and 1.0 G; W and x in textures, no sums carried
// over pieces 5.2 G and 10.3 G; 8 outputs, so that x is loaded half as often, 6.1 G and 14.3 G. Rows in blocks, so that
// memory is read front to back, made a step of SmolLM2, 99 MiB of weights, 8 to 10 % faster.
// Needs: p (with rows, x_width, outputs, row_words, group, groups), GATED, write_fours.
// Gives: main.

#import shared/part
#import shared/blocks
#import shared/matrix
#import linear/unpack
#import linear/x_in_{1}

override ROWS: u32 = 1u;
override PER_WORD: u32 = 1u;  // elements in a 32-bit word: vectors of x in a piece
override OUTPUTS: u32 = 4u;   // of an invocation: 4 or 8
override LANES: u32 = 8u;

const STEPS = vec4(0u, 1u, 2u, 3u);

// Vectors at which the rows of x begin.
var<private> rows: vec4<u32>;
// Of the current piece: sums of q * x, a column a row and a component an output, and sums of x.
var<private> dots: mat4x4<f32>;
var<private> more_dots: mat4x4<f32>;
var<private> sums: vec4<f32>;

// Four neighbouring columns, at vector `at` of the rows of x; `w` and `v` have a column of W a column, an output a
// component.
fn columns(w: mat4x4<f32>, v: mat4x4<f32>, at: u32) {
    if ROWS == 1u {
        let x1 = x_at(rows.x + at);
        dots[0] += w * x1;
        if OUTPUTS == 8u {
            more_dots[0] += v * x1;
        }
        if FORMAT >= 4u {
            sums.x += dot(vec4(1.0), x1);
        }
    } else {
        let x4 = mat4x4(x_at(rows.x + at), x_at(rows.y + at), x_at(rows.z + at), x_at(rows.w + at));
        dots += w * x4;
        if OUTPUTS == 8u {
            more_dots += v * x4;
        }
        if FORMAT >= 4u {
            sums += vec4(1.0) * x4;
        }
    }
}

fn floats(w: Piece) -> mat4x4<f32> {
    return mat4x4(
        bitcast<vec4<f32>>(w.a),
        bitcast<vec4<f32>>(w.b),
        bitcast<vec4<f32>>(w.c),
        bitcast<vec4<f32>>(w.d),
    );
}

// The two 16-bit floats of each word of two columns.
fn halves(a: vec4<u32>, b: vec4<u32>) -> mat4x4<f32> {
    return mat4x4(low(a), high(a), low(b), high(b));
}

// Four integers of each word, from bit `shift` on.
fn integers(w: vec4<u32>, shift: u32) -> mat4x4<f32> {
    return mat4x4(
        integer(w, shift),
        integer(w, shift + FORMAT),
        integer(w, shift + 2u * FORMAT),
        integer(w, shift + 3u * FORMAT),
    );
}

// By a signed conversion: it is one instruction where an unsigned one is many.
fn integer(w: vec4<u32>, shift: u32) -> vec4<f32> {
    return vec4<f32>(vec4<i32>((w >> vec4(shift)) & vec4((1u << FORMAT) - 1u)));
}

// The words of a piece of 4 outputs: word `i` of all in column `i`, with an output a component.
struct Piece {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

fn piece_of(indices: vec4<u32>) -> Piece {
    let a = piece_at(indices.x);
    let b = piece_at(indices.y);
    let c = piece_at(indices.z);
    let d = piece_at(indices.w);
    return Piece(
        vec4(a.x, b.x, c.x, d.x),
        vec4(a.y, b.y, c.y, d.y),
        vec4(a.z, b.z, c.z, d.z),
        vec4(a.w, b.w, c.w, d.w),
    );
}

// A piece of 4 outputs and of 4 more; `at` is its first vector of x.
fn multiply(w: Piece, v: Piece, at: u32) {
    if FORMAT == 0u {
        columns(floats(w), floats(v), at);
    } else if FORMAT <= 2u {
        columns(halves(w.a, w.b), halves(v.a, v.b), at);
        columns(halves(w.c, w.d), halves(v.c, v.d), at + 1u);
    } else if FORMAT == 8u {
        columns(integers(w.a, 0u), integers(v.a, 0u), at);
        columns(integers(w.b, 0u), integers(v.b, 0u), at + 1u);
        columns(integers(w.c, 0u), integers(v.c, 0u), at + 2u);
        columns(integers(w.d, 0u), integers(v.d, 0u), at + 3u);
    } else {
        columns(integers(w.a, 0u), integers(v.a, 0u), at);
        columns(integers(w.a, 16u), integers(v.a, 16u), at + 1u);
        columns(integers(w.b, 0u), integers(v.b, 0u), at + 2u);
        columns(integers(w.b, 16u), integers(v.b, 16u), at + 3u);
        columns(integers(w.c, 0u), integers(v.c, 0u), at + 4u);
        columns(integers(w.c, 16u), integers(v.c, 16u), at + 5u);
        columns(integers(w.d, 0u), integers(v.d, 0u), at + 6u);
        columns(integers(w.d, 16u), integers(v.d, 16u), at + 7u);
    }
}

fn scales_at(groups: vec4<u32>) -> vec4<f32> {
    return vec4(scale_at(groups.x), scale_at(groups.y), scale_at(groups.z), scale_at(groups.w));
}

fn offsets_at(groups: vec4<u32>, scales: vec4<f32>) -> vec4<f32> {
    return vec4(
        offset_at(groups.x, scales.x),
        offset_at(groups.y, scales.y),
        offset_at(groups.z, scales.z),
        offset_at(groups.w, scales.w),
    );
}

// The piece's sums as values: scale * dots + offset * sums, a column a row.
fn scaled(sums_of_qx: mat4x4<f32>, groups: vec4<u32>) -> mat4x4<f32> {
    if FORMAT < 4u {
        return sums_of_qx;
    }
    let scale = scales_at(groups);
    let offset = offsets_at(groups, scale);
    return mat4x4(
        scale * sums_of_qx[0] + offset * sums.x,
        scale * sums_of_qx[1] + offset * sums.y,
        scale * sums_of_qx[2] + offset * sums.z,
        scale * sums_of_qx[3] + offset * sums.w,
    );
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = in_grid(workgroup);
    let fours = 4u * LANES;
    let one_four = OUTPUTS == 4u || GATED;
    let output = place.x * fours * select(2u, 1u, one_four) + 4u * lane;
    let more_output = output + select(select(0u, fours, OUTPUTS == 8u), p.outputs / 2u, GATED);
    let row = place.y * ROWS;
    // Rows and outputs beyond the last repeat it and are not written.
    rows = min(vec4(row) + STEPS, vec4(p.rows - 1u)) * (p.x_width / 4u);
    let outputs = min(vec4(output) + STEPS, vec4(p.outputs - 1u));
    let more_outputs = min(vec4(more_output) + STEPS, vec4(p.outputs - 1u));
    let pieces = p.row_words / 4u;
    let starts = starts_of(outputs, pieces);
    let more_starts = starts_of(more_outputs, pieces);
    let group_starts = starts_of(outputs, p.groups);
    let more_group_starts = starts_of(more_outputs, p.groups);
    // A group is some pieces. Dividing by a product is exact below 2^21 pieces, and faster than dividing integers.
    let groups_per_piece = 1.0 / f32((p.group - 1u) / (4u * PER_WORD) + 1u);
    var totals = mat4x4<f32>();
    var more_totals = mat4x4<f32>();
    for (var i = 0u; i < pieces; i++) {
        dots = mat4x4<f32>();
        more_dots = mat4x4<f32>();
        sums = vec4(0.0);
        let group = NEXT * u32(i32((f32(i32(i)) + 0.5) * groups_per_piece));
        let w = piece_of(starts + NEXT * i);
        if OUTPUTS == 8u {
            multiply(w, piece_of(more_starts + NEXT * i), i * PER_WORD);
            more_totals += scaled(more_dots, more_group_starts + group);
        } else {
            multiply(w, w, i * PER_WORD);
        }
        totals += scaled(dots, group_starts + group);
    }
    write_fours(row, output, more_output, totals[0], more_totals[0]);
    if ROWS == 4u {
        write_fours(row + 1u, output, more_output, totals[1], more_totals[1]);
        write_fours(row + 2u, output, more_output, totals[2], more_totals[2]);
        write_fours(row + 3u, output, more_output, totals[3], more_totals[3]);
    }
}
