// The lowest index of the largest value, a workgroup a row; 0xffffffff where a value is NaN or infinite, told by its bits.

override LANES: u32 = 256u;

struct Params {
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;             // [rows, width]
@group(0) @binding(1) var<storage, read_write> out: array<u32>;     // [rows]
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> values: array<f32, LANES>;
var<workgroup> indices: array<u32, LANES>;
var<workgroup> odd: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    var best = LOWEST;
    var index = 0xfffffffeu;
    var not_finite = 0u;
    for (var i = lane; i < p.width; i += LANES) {
        let v = x[row * p.width + i];
        if (bitcast<u32>(v) & 0x7f800000u) == 0x7f800000u {
            not_finite = 1u;
        } else if v > best || index == 0xfffffffeu {
            best = v;
            index = i;
        }
    }
    values[lane] = best;
    indices[lane] = index;
    odd[lane] = not_finite;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let other = lane + half;
            odd[lane] |= odd[other];
            if values[other] > values[lane] || (values[other] == values[lane] && indices[other] < indices[lane]) {
                values[lane] = values[other];
                indices[lane] = indices[other];
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        out[row] = select(indices[0], 0xffffffffu, odd[0] == 1u);
    }
}
