// Products of 1 to 8 rows of x with a matrix, for GPUs: a workgroup makes 8 x OUTPUTS sums of all ROWS rows, so that each
// weight is read once. Eight invocations beside each other have neighbouring rows of a block of W and the same
// columns: their loads of W are whole lines of 128 bytes, and of x one address. The other invocations have other columns;
// what they sum meets in workgroup memory once, at the end. Sums in f32, weights as scale * q + offset.
// Needs: p (with rows, cols, x_width, outputs, row_words, group, groups), GATED, PRODUCTS, write_one.
// Gives: main.

#import shared/part
#import shared/blocks
#import shared/matrix
#import linear/unpack
#import linear/x_in_{1}

override ROWS: u32 = 1u;      // 1 to 8
override OUTPUTS: u32 = 2u;   // rows of W of an invocation: 1, 2 or 4; half of them of the gate, where there is one
override PER_WORD: u32 = 1u;  // elements in a 32-bit word: vectors of x in a piece
override LANES: u32 = 128u;   // a multiple of 32

// Of each row and output, the sums of all invocations; eight more, so that rows of them begin in different banks.
override SUMS_PITCH: u32 = LANES + 8u;
override SUMS_SIZE: u32 = (LANES + 8u) * ROWS * OUTPUTS;
// Outputs of y of an invocation.
override OWN: u32 = OUTPUTS / PRODUCTS;

var<workgroup> lane_sums: array<f32, SUMS_SIZE>;  // [ROWS, OUTPUTS, SUMS_PITCH]

// Sums of rows 0 to 3 and 4 to 7, a column a row and a component an output.
struct Sums {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

// Four neighbouring columns of W, a column a column and a component an output, times vector `at` of the rows of x.
fn add_columns(sums: Sums, w: mat4x4<f32>, at: u32) -> Sums {
    var s = sums;
    let width = p.x_width / 4u;
    s.a[0] = add_row(s.a[0], w, x_at(at));
    if ROWS > 1u {
        s.a[1] = add_row(s.a[1], w, x_at(at + width));
    }
    if ROWS > 2u {
        s.a[2] = add_row(s.a[2], w, x_at(at + 2u * width));
    }
    if ROWS > 3u {
        s.a[3] = add_row(s.a[3], w, x_at(at + 3u * width));
    }
    if ROWS > 4u {
        s.b[0] = add_row(s.b[0], w, x_at(at + 4u * width));
    }
    if ROWS > 5u {
        s.b[1] = add_row(s.b[1], w, x_at(at + 5u * width));
    }
    if ROWS > 6u {
        s.b[2] = add_row(s.b[2], w, x_at(at + 6u * width));
    }
    if ROWS > 7u {
        s.b[3] = add_row(s.b[3], w, x_at(at + 7u * width));
    }
    return s;
}

fn add_row(sum: vec4<f32>, w: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    return (((sum + w[0] * x.x) + w[1] * x.y) + w[2] * x.z) + w[3] * x.w;
}

// The words of a piece of the invocation's outputs: word `i` of all in column `i`.
struct Piece {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

fn piece_of(at: vec4<u32>) -> Piece {
    let a = piece_at(at.x);
    var b = a;
    var c = a;
    var d = a;
    if OUTPUTS > 1u {
        b = piece_at(at.y);
    }
    if OUTPUTS > 2u {
        c = piece_at(at.z);
        d = piece_at(at.w);
    }
    return Piece(
        vec4(a.x, b.x, c.x, d.x),
        vec4(a.y, b.y, c.y, d.y),
        vec4(a.z, b.z, c.z, d.z),
        vec4(a.w, b.w, c.w, d.w),
    );
}

fn scales_of(at: vec4<u32>) -> vec4<f32> {
    let a = scale_at(at.x);
    if OUTPUTS == 1u {
        return vec4(a);
    }
    let b = scale_at(at.y);
    if OUTPUTS == 2u {
        return vec4(a, b, a, b);
    }
    return vec4(a, b, scale_at(at.z), scale_at(at.w));
}

fn offsets_of(at: vec4<u32>, scale: vec4<f32>) -> vec4<f32> {
    let a = offset_at(at.x, scale.x);
    if OUTPUTS == 1u {
        return vec4(a);
    }
    let b = offset_at(at.y, scale.y);
    if OUTPUTS == 2u {
        return vec4(a, b, a, b);
    }
    return vec4(a, b, offset_at(at.z, scale.z), offset_at(at.w, scale.w));
}

// One word: 8 columns of 4 bits, or 4 of 8.
fn add_integers(sums: Sums, w: vec4<u32>, scale: vec4<f32>, offset: vec4<f32>, at: u32) -> Sums {
    if FORMAT == 8u {
        return add_columns(sums, mat4x4(
            scale * byte_of(w, 0u) + offset,
            scale * byte_of(w, 1u) + offset,
            scale * byte_of(w, 2u) + offset,
            scale * byte_of(w, 3u) + offset,
        ), at);
    }
    let even = w & vec4(0x0f0f0f0fu);
    let odd = (w >> vec4(4u)) & vec4(0x0f0f0f0fu);
    let s = add_columns(sums, mat4x4(
        scale * byte_of(even, 0u) + offset,
        scale * byte_of(odd, 0u) + offset,
        scale * byte_of(even, 1u) + offset,
        scale * byte_of(odd, 1u) + offset,
    ), at);
    return add_columns(s, mat4x4(
        scale * byte_of(even, 2u) + offset,
        scale * byte_of(odd, 2u) + offset,
        scale * byte_of(even, 3u) + offset,
        scale * byte_of(odd, 3u) + offset,
    ), at + 1u);
}

// A piece whose scales are at `groups`; `at` is its first vector of x.
fn add_piece(sums: Sums, w: Piece, groups: vec4<u32>, at: u32) -> Sums {
    if FORMAT == 0u {
        return add_columns(sums, mat4x4(
            bitcast<vec4<f32>>(w.a),
            bitcast<vec4<f32>>(w.b),
            bitcast<vec4<f32>>(w.c),
            bitcast<vec4<f32>>(w.d),
        ), at);
    }
    if FORMAT <= 2u {
        let s = add_columns(sums, mat4x4(low(w.a), high(w.a), low(w.b), high(w.b)), at);
        return add_columns(s, mat4x4(low(w.c), high(w.c), low(w.d), high(w.d)), at + 1u);
    }
    let scale = scales_of(groups);
    let offset = offsets_of(groups, scale);
    let vectors = PER_WORD / 4u;
    var s = add_integers(sums, w.a, scale, offset, at);
    s = add_integers(s, w.b, scale, offset, at + vectors);
    s = add_integers(s, w.c, scale, offset, at + 2u * vectors);
    return add_integers(s, w.d, scale, offset, at + 3u * vectors);
}

fn keep_row(row: u32, lane: u32, sums: vec4<f32>) {
    let to = row * OUTPUTS * SUMS_PITCH + lane;
    lane_sums[to] = sums.x;
    if OUTPUTS > 1u {
        lane_sums[to + SUMS_PITCH] = sums.y;
    }
    if OUTPUTS > 2u {
        lane_sums[to + 2u * SUMS_PITCH] = sums.z;
        lane_sums[to + 3u * SUMS_PITCH] = sums.w;
    }
}

fn keep(lane: u32, sums: Sums) {
    keep_row(0u, lane, sums.a[0]);
    if ROWS > 1u {
        keep_row(1u, lane, sums.a[1]);
    }
    if ROWS > 2u {
        keep_row(2u, lane, sums.a[2]);
    }
    if ROWS > 3u {
        keep_row(3u, lane, sums.a[3]);
    }
    if ROWS > 4u {
        keep_row(4u, lane, sums.b[0]);
    }
    if ROWS > 5u {
        keep_row(5u, lane, sums.b[1]);
    }
    if ROWS > 6u {
        keep_row(6u, lane, sums.b[2]);
    }
    if ROWS > 7u {
        keep_row(7u, lane, sums.b[3]);
    }
}

// The sum of one row and output over the invocations that have other columns.
fn kept(row: u32, output: u32, eighth: u32) -> f32 {
    var sum = 0.0;
    let start = (row * OUTPUTS + output) * SUMS_PITCH + eighth;
    for (var i = 0u; i < LANES; i += 8u) {
        sum += lane_sums[start + i];
    }
    return sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let strips = 4u / OWN;  // workgroups that share a block of 32 rows of W
    let place = in_grid(workgroup);
    let first_output = place.x / strips * 32u + place.x % strips * OWN;
    let output = first_output + lane % 8u * 4u;
    // Outputs beyond the last repeat it and are not written.
    let steps = vec4(0u, 1u, 2u, 3u);
    let wanted = vec4(output) + steps % OWN + steps / OWN % PRODUCTS * (p.outputs / PRODUCTS);
    let outputs = min(wanted, vec4(p.outputs - 1u));
    let pieces = p.row_words / 4u;
    let starts = starts_of(outputs, pieces);
    let group_starts = starts_of(outputs, p.groups);
    let pieces_of_group = (p.group - 1u) / (4u * PER_WORD) + 1u;
    var sums = Sums();
    for (var i = lane / 8u; i < pieces; i += LANES / 8u) {
        sums = add_piece(sums, piece_of(starts + NEXT * i), group_starts + NEXT * (i / pieces_of_group), i * PER_WORD);
    }
    keep(lane, sums);
    workgroupBarrier();
    for (var i = lane; i < ROWS * OWN * 8u; i += LANES) {
        let row = i / OWN / 8u;
        let eighth = i / OWN % 8u;
        let product = kept(row, i % OWN, eighth);
        var more_product = product;
        if GATED {
            more_product = kept(row, OWN + i % OWN, eighth);
        }
        write_one(row, first_output + eighth * 4u + i % OWN, product, more_product);
    }
}
