// weight * (x - mean) / sqrt(variance + eps) + bias, a workgroup a row; statistics in f32.

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    width: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, width]
@group(0) @binding(1) var<storage, read> weight: array<f32>;      // [width]
@group(0) @binding(2) var<storage, read> bias: array<f32>;        // [width]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;     // [rows, width]
@group(0) @binding(4) var<uniform> p: Params;

var<workgroup> sums: array<f32, LANES>;

fn total(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    sums[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    return sums[0];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    let from_x = row * p.width;
    var sum = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        sum += x[from_x + i];
    }
    let mean = total(lane, sum) / f32(p.width);
    var squares = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        let d = x[from_x + i] - mean;
        squares += d * d;
    }
    let scale = inverseSqrt(total(lane, squares) / f32(p.width) + p.eps);
    for (var i = lane; i < p.width; i += LANES) {
        y[from_x + i] = weight[i] * ((x[from_x + i] - mean) * scale) + bias[i];
    }
}
