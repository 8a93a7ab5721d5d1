// Put in front of every shader: reading 16-bit floats that are kept in 32-bit words, silu, and sums over a workgroup's lanes.

const LOWEST: f32 = -3.4028234663852886e38;

// Storage of a value: 0 f32, 1 f16, 2 bf16.
fn unpack2(word: u32, dtype: u32) -> vec2<f32> {
    if dtype == 2u {
        return vec2(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
    }
    return unpack2x16float(word);
}

// Width of the grid that ops::grid makes.
const GRID_X: u32 = 32768u;

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

// g / (1 + exp(-g)), with exp of nothing above 0, so that it never overflows.
fn silu(g: f32) -> f32 {
    let e = exp(-abs(g));
    return g * select(e, 1.0, g >= 0.0) / (1.0 + e);
}

var<workgroup> lane_values: array<f32, 256>;

// The sum of one value of each lane, for every lane. `lanes`, a power of two, is the workgroup's size; all lanes call.
fn sum_of_lanes(value: f32, lane: u32, lanes: u32) -> f32 {
    workgroupBarrier();
    lane_values[lane] = value;
    workgroupBarrier();
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        if lane < half {
            lane_values[lane] += lane_values[lane + half];
        }
        workgroupBarrier();
    }
    return lane_values[0];
}

// As sum_of_lanes, the largest value.
fn max_of_lanes(value: f32, lane: u32, lanes: u32) -> f32 {
    workgroupBarrier();
    lane_values[lane] = value;
    workgroupBarrier();
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        if lane < half {
            lane_values[lane] = max(lane_values[lane], lane_values[lane + half]);
        }
        workgroupBarrier();
    }
    return lane_values[0];
}
