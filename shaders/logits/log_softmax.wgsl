// y = x - max - ln(sum(exp(x - max))), a workgroup a row; sums in f32. Numbers that are not finite stay as they are.

#import shared/grid
#import shared/floats

override LANES: u32 = 256u;

struct Params {
    rows: u32,
    vocab: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;             // [rows, vocab]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;       // [rows, vocab]
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> parts: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    let start = row * p.vocab;
    var most = LOWEST;
    for (var i = lane; i < p.vocab; i += LANES) {
        let v = x[start + i];
        if !not_finite(bitcast<u32>(v)) {
            most = max(most, v);
        }
    }
    parts[lane] = most;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            parts[lane] = max(parts[lane], parts[lane + half]);
        }
        workgroupBarrier();
    }
    most = parts[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var i = lane; i < p.vocab; i += LANES) {
        let v = x[start + i];
        if !not_finite(bitcast<u32>(v)) {
            sum += exp(max(v - most, -100.0));
        }
    }
    parts[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            parts[lane] += parts[lane + half];
        }
        workgroupBarrier();
    }
    let log_sum = log(parts[0]);
    for (var i = lane; i < p.vocab; i += LANES) {
        let v = x[start + i];
        if not_finite(bitcast<u32>(v)) {
            y[start + i] = v;
        } else {
            y[start + i] = max(v - most - log_sum, LOWEST);
        }
    }
}
