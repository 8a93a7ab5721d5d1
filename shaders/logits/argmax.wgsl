// out = lowest index of the largest logit, a workgroup a row; 0xffffffff where the row has a NaN or an infinity, which
// WGSL may assume away: they are known by their bits.

#import shared/grid
#import shared/floats

override LANES: u32 = 256u;

struct Params {
    batch: u32,
    vocab: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<u32>;     // [batch, vocab] f32
@group(0) @binding(1) var<storage, read_write> out: array<u32>;  // [batch]
@group(0) @binding(2) var<uniform> p: Params;

const NONE: u32 = 0xffffffffu;

var<workgroup> values: array<f32, LANES>;
var<workgroup> indices: array<u32, LANES>;
var<workgroup> faults: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.batch {
        return;
    }
    var best = LOWEST;
    var index = NONE;
    var fault = 0u;
    for (var i = lane; i < p.vocab; i += LANES) {
        let bits = logits[row * p.vocab + i];
        fault |= u32(not_finite(bits));
        let value = bitcast<f32>(bits);
        if value > best || (value == best && i < index) {
            best = value;
            index = i;
        }
    }
    values[lane] = best;
    indices[lane] = index;
    faults[lane] = fault;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let value = values[lane + half];
            let other = indices[lane + half];
            if value > values[lane] || (value == values[lane] && other < indices[lane]) {
                values[lane] = value;
                indices[lane] = other;
            }
            faults[lane] |= faults[lane + half];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        out[row] = select(indices[0], NONE, faults[0] != 0u);
    }
}
