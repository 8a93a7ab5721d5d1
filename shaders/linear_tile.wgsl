// y = residual + layer_scale * (x W^T + bias): the fast kernel. An invocation makes one output of ROWS (1, 4 or 8) rows.
// A weight is read 16 bytes at a time and unpacked once for all rows; x is read at addresses that all lanes share; an
// integer's scale and offset are applied once a 16-byte piece, to the sums of q * x and of x.
// Sums in f32. Weights as src/matrix.rs lays them out; groups are whole 16-byte pieces.

override FORMAT: u32 = 0u;       // 0 f32, 1 f16, 2 bf16, 4 or 8: integers of as many bits
override SCALES: u32 = 0u;       // storage of scales: 0 f32, 1 f16, 2 bf16
override OFFSETS: u32 = 0u;
override BIAS: u32 = 0u;
override LAYER_SCALE: u32 = 0u;
override RESIDUAL: u32 = 0u;
override ROWS: u32 = 1u;
override PER_WORD: u32 = 1u;     // elements in a 32-bit word
override LANES: u32 = 64u;

struct Params {
    rows: u32,
    cols: u32,
    outputs: u32,
    first_output: u32,
    y_width: u32,
    row_words: u32,
    group: u32,
    groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;            // [rows, cols]
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;  // [outputs, row_words / 4]
@group(0) @binding(2) var<storage, read> scales: array<u32>;       // [outputs, groups]
@group(0) @binding(3) var<storage, read> offsets: array<f32>;      // [outputs, groups]
@group(0) @binding(4) var<storage, read> bias: array<f32>;         // [y_width]
@group(0) @binding(5) var<storage, read> layer_scale: array<f32>;  // [y_width]
@group(0) @binding(6) var<storage, read> residual: array<f32>;     // [rows, y_width]
@group(0) @binding(7) var<storage, read_write> y: array<f32>;      // [rows, y_width]
@group(0) @binding(8) var<uniform> p: Params;

// Sums of the current 16-byte piece, for rows 0..3 and 4..7.
var<private> dots_a: vec4<f32>;
var<private> dots_b: vec4<f32>;
var<private> sums_a: vec4<f32>;
var<private> sums_b: vec4<f32>;
// Where the rows begin in x.
var<private> rows_a: vec4<u32>;
var<private> rows_b: vec4<u32>;

fn scale_of(index: u32) -> f32 {
    if SCALES == 0u {
        return bitcast<f32>(scales[index]);
    }
    return unpack2(scales[index / 2u], SCALES)[index % 2u];
}

fn four_of(rows: vec4<u32>, k: u32) -> vec4<f32> {
    return vec4(x[rows.x + k], x[rows.y + k], x[rows.z + k], x[rows.w + k]);
}

fn element(w: f32, k: u32) {
    if ROWS == 1u {
        let v = x[rows_a.x + k];
        dots_a.x += w * v;
        if FORMAT >= 4u {
            sums_a.x += v;
        }
        return;
    }
    let v = four_of(rows_a, k);
    dots_a += w * v;
    if FORMAT >= 4u {
        sums_a += v;
    }
    if ROWS == 8u {
        let v_b = four_of(rows_b, k);
        dots_b += w * v_b;
        if FORMAT >= 4u {
            sums_b += v_b;
        }
    }
}

fn one_word(word: u32, k: u32) {
    if FORMAT == 0u {
        element(bitcast<f32>(word), k);
        return;
    }
    if FORMAT <= 2u {
        let pair = unpack2(word, FORMAT);
        element(pair.x, k);
        element(pair.y, k + 1u);
        return;
    }
    for (var e = 0u; e < PER_WORD; e++) {
        element(f32(extractBits(word, e * FORMAT, FORMAT)), k + e);
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= p.outputs {
        return;
    }
    let first = id.y * ROWS;
    let last = p.rows - 1u;
    // Rows beyond the last repeat it and are not written.
    rows_a = min(vec4(first, first + 1u, first + 2u, first + 3u), vec4(last)) * p.cols;
    rows_b = min(vec4(first + 4u, first + 5u, first + 6u, first + 7u), vec4(last)) * p.cols;
    var all_a = vec4(0.0);
    var all_b = vec4(0.0);
    let per_piece = 4u * PER_WORD;
    let pieces = p.row_words / 4u;
    let from_words = id.x * pieces;
    for (var piece = 0u; piece < pieces; piece++) {
        let k = piece * per_piece;
        let word = words[from_words + piece];
        dots_a = vec4(0.0);
        dots_b = vec4(0.0);
        sums_a = vec4(0.0);
        sums_b = vec4(0.0);
        if k + per_piece <= p.cols {
            one_word(word.x, k);
            one_word(word.y, k + PER_WORD);
            one_word(word.z, k + 2u * PER_WORD);
            one_word(word.w, k + 3u * PER_WORD);
        } else {
            for (var i = 0u; k + i < p.cols; i++) {
                let bits = word[i / PER_WORD];
                if FORMAT == 0u {
                    element(bitcast<f32>(bits), k + i);
                } else if FORMAT <= 2u {
                    element(unpack2(bits, FORMAT)[i % 2u], k + i);
                } else {
                    element(f32(extractBits(bits, i % PER_WORD * FORMAT, FORMAT)), k + i);
                }
            }
        }
        if FORMAT >= 4u {
            let group = id.x * p.groups + k / p.group;
            let scale = scale_of(group);
            var offset = -scale * f32((1u << FORMAT) / 2u);
            if OFFSETS == 1u {
                offset = offsets[group];
            }
            all_a += scale * dots_a + offset * sums_a;
            all_b += scale * dots_b + offset * sums_b;
        } else {
            all_a += dots_a;
            all_b += dots_b;
        }
    }
    let out = p.first_output + id.x;
    for (var m = 0u; m < ROWS; m++) {
        if first + m >= p.rows {
            break;
        }
        let at = (first + m) * p.y_width + out;
        var value = select(all_b[m % 4u], all_a[m % 4u], m < 4u);
        if BIAS == 1u {
            value += bias[out];
        }
        if LAYER_SCALE == 1u {
            value *= layer_scale[out];
        }
        if RESIDUAL == 1u {
            value += residual[at];
        }
        y[at] = value;
    }
}
