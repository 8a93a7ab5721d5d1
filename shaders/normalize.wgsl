// x / ||x||, a workgroup a row.

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;     // [rows, width]
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    var sum = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        let v = x[row * p.width + i];
        sum += v * v;
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    let norm = max(sqrt(sums[0]), 1e-30);
    for (var i = lane; i < p.width; i += LANES) {
        y[row * p.width + i] = x[row * p.width + i] / norm;
    }
}
