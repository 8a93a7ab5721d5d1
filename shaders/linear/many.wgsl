// Products of many rows of x with a matrix, for GPUs: a workgroup makes TILE_ROWS rows of 64 outputs, DEPTH columns at a
// time. x and W of these columns go to workgroup memory, where all invocations read them: from device memory each is
// loaded once a workgroup, whole lines of 128 bytes by neighbouring invocations, and W is unpacked once. An invocation
// keeps LANE_ROWS x 8 sums in registers: of every three or four loads come 32 or 64 multiply-adds. Sums in f32.
// Workgroup memory has four rows or outputs a vector, and one vector more than they need a column: invocations beside
// each other then write to different banks, and neither store nor load crosses a vector.
// Needs: p (with rows, cols, x_width, outputs, row_words, group, groups), GATED, write_fours.
// Gives: main.

#import shared/part
#import shared/blocks
#import shared/matrix
#import linear/unpack
#import linear/x_in_{1}

override TILE_ROWS: u32 = 64u;  // a multiple of LANE_ROWS
override LANE_ROWS: u32 = 4u;   // of an invocation: 4 or 8
override PER_WORD: u32 = 1u;    // elements in a 32-bit word
override LANES: u32 = 128u;     // TILE_ROWS / LANE_ROWS * 8

const STEPS = vec4(0u, 1u, 2u, 3u);
// Columns at a time.
const DEPTH: u32 = 16u;
// Fours of outputs, and vectors a column of W in workgroup memory.
const FOURS: u32 = 16u;
const W_PITCH: u32 = 17u;
override X_PITCH: u32 = TILE_ROWS / 4u + 1u;
override X_SIZE: u32 = DEPTH * (TILE_ROWS / 4u + 1u);
const W_SIZE: u32 = DEPTH * W_PITCH;

var<workgroup> xs: array<vec4<f32>, X_SIZE>;  // [DEPTH, X_PITCH]
var<workgroup> ws: array<vec4<f32>, W_SIZE>;  // [DEPTH, W_PITCH]

// Where column `k` of those in workgroup memory stands: columns k, k + 4, ... beside each other.
fn place_of(k: u32) -> u32 {
    return k % 4u * (DEPTH / 4u) + k / 4u;
}

// The first output of a four of the workgroup: of the gate and of what it gates, the first half and the second.
fn output_of(workgroup: u32, four: u32) -> u32 {
    if GATED {
        return workgroup * 32u + four % 8u * 4u + four / 8u * (p.outputs / 2u);
    }
    return workgroup * 64u + four * 4u;
}

// Columns `first` .. of the workgroup's rows of x. Rows beyond the last repeat it.
fn fill_x(first_row: u32, first: u32, lane: u32) {
    let fours = DEPTH / 4u;
    for (var task = lane; task < TILE_ROWS / 4u * fours; task += LANES) {
        let four = task % fours;
        let rows = min(vec4(first_row + task / fours * 4u) + STEPS, vec4(p.rows - 1u));
        let at = rows * (p.x_width / 4u) + first / 4u + four;
        let x = transpose(mat4x4(x_at(at.x), x_at(at.y), x_at(at.z), x_at(at.w)));
        let to = four * X_PITCH + task / fours;
        xs[to] = x[0];
        xs[to + fours * X_PITCH] = x[1];
        xs[to + 2u * fours * X_PITCH] = x[2];
        xs[to + 3u * fours * X_PITCH] = x[3];
    }
}

// The same columns of W: an invocation a word of four outputs. Words beyond a row's last repeat it: x is 0 there.
fn fill_w(workgroup: u32, first: u32, lane: u32) {
    let words = DEPTH / PER_WORD;
    let of_piece = min(words, 4u);
    let pieces_of_group = (p.group - 1u) / (4u * PER_WORD) + 1u;
    for (var task = lane; task < FOURS * words; task += LANES) {
        let four = task / of_piece % FOURS;
        let k = (task / of_piece / FOURS * 4u + task % of_piece) * PER_WORD;
        let word = min((first + k) / PER_WORD, p.row_words - 1u);
        let outputs = min(vec4(output_of(workgroup, four)) + STEPS, vec4(p.outputs - 1u));
        let at = starts_of(outputs, p.row_words / 4u) + word / 4u * NEXT;
        let i = word % 4u;
        let w = vec4(word_at(at.x, i), word_at(at.y, i), word_at(at.z, i), word_at(at.w, i));
        if FORMAT < 4u {
            put_floats(w, k, four);
        } else {
            put_integers(w, k, four, starts_of(outputs, p.groups) + word / 4u / pieces_of_group * NEXT);
        }
    }
}

fn put_w(k: u32, four: u32, value: vec4<f32>) {
    ws[place_of(k) * W_PITCH + four] = value;
}

fn put_floats(w: vec4<u32>, k: u32, four: u32) {
    if FORMAT == 0u {
        put_w(k, four, bitcast<vec4<f32>>(w));
    } else {
        put_w(k, four, low(w));
        put_w(k + 1u, four, high(w));
    }
}

fn put_integers(w: vec4<u32>, k: u32, four: u32, groups: vec4<u32>) {
    let scale = vec4(scale_at(groups.x), scale_at(groups.y), scale_at(groups.z), scale_at(groups.w));
    let offset = vec4(
        offset_at(groups.x, scale.x),
        offset_at(groups.y, scale.y),
        offset_at(groups.z, scale.z),
        offset_at(groups.w, scale.w),
    );
    for (var i = 0u; i < 4u; i++) {
        if FORMAT == 8u {
            put_w(k + i, four, scale * byte_of(w, i) + offset);
        } else {
            put_w(k + 2u * i, four, scale * byte_of(w & vec4(0x0f0f0f0fu), i) + offset);
            put_w(k + 2u * i + 1u, four, scale * byte_of((w >> vec4(4u)) & vec4(0x0f0f0f0fu), i) + offset);
        }
    }
}

// Sums of the first four rows, a column a row and a component an output: of four outputs, and of four more.
var<private> sums: mat4x4<f32>;
var<private> more_sums: mat4x4<f32>;
// The same of the second four rows.
var<private> lower_sums: mat4x4<f32>;
var<private> more_lower_sums: mat4x4<f32>;

// A column a row, a component an output.
fn outer(x: vec4<f32>, w: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(x.x * w, x.y * w, x.z * w, x.w * w);
}

// Adds the products of the column at place `k`.
fn add_column(k: u32, row_four: u32, four: u32) {
    let w = ws[k * W_PITCH + four];
    let v = ws[k * W_PITCH + 8u + four];
    let x = xs[k * X_PITCH + row_four];
    sums += outer(x, w);
    more_sums += outer(x, v);
    if LANE_ROWS == 8u {
        let z = xs[k * X_PITCH + TILE_ROWS / 8u + row_four];
        lower_sums += outer(z, w);
        more_lower_sums += outer(z, v);
    }
}

fn write_rows(first_row: u32, output: u32, more_output: u32, products: mat4x4<f32>, more_products: mat4x4<f32>) {
    write_fours(first_row, output, more_output, products[0], more_products[0]);
    write_fours(first_row + 1u, output, more_output, products[1], more_products[1]);
    write_fours(first_row + 2u, output, more_output, products[2], more_products[2]);
    write_fours(first_row + 3u, output, more_output, products[3], more_products[3]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = in_grid(workgroup);
    let first_row = place.y * TILE_ROWS;
    let row_four = lane / 8u;
    let four = lane % 8u;
    for (var first = 0u; first < p.cols; first += DEPTH) {
        workgroupBarrier();
        fill_x(first_row, first, lane);
        fill_w(place.x, first, lane);
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += 4u) {
            add_column(k, row_four, four);
            add_column(k + 1u, row_four, four);
            add_column(k + 2u, row_four, four);
            add_column(k + 3u, row_four, four);
        }
    }
    let output = output_of(place.x, four);
    let more_output = output_of(place.x, 8u + four);
    write_rows(first_row + 4u * row_four, output, more_output, sums, more_sums);
    if LANE_ROWS == 8u {
        write_rows(first_row + TILE_ROWS / 2u + 4u * row_four, output, more_output, lower_sums, more_lower_sums);
    }
}
