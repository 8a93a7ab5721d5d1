// -log_softmax(x)[label], a workgroup a row; 0 where the label is 0xffffffff.

override LANES: u32 = 64u;

struct Params {
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, width]
@group(0) @binding(1) var<storage, read> labels: array<u32>;      // [rows]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;     // [rows]
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> values: array<f32, LANES>;

fn row_max(lane: u32, value: f32) -> f32 {
    values[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            values[lane] = max(values[lane], values[lane + half]);
        }
        workgroupBarrier();
    }
    let all = values[0];
    workgroupBarrier();
    return all;
}

fn row_sum(lane: u32, value: f32) -> f32 {
    values[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            values[lane] += values[lane + half];
        }
        workgroupBarrier();
    }
    let all = values[0];
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    let from_x = row * p.width;
    var m = LOWEST;
    for (var i = lane; i < p.width; i += LANES) {
        m = max(m, x[from_x + i]);
    }
    m = row_max(lane, m);
    var sum = 0.0;
    for (var i = lane; i < p.width; i += LANES) {
        sum += exp(x[from_x + i] - m);
    }
    let lse = m + log(row_sum(lane, sum));
    if lane == 0u {
        let label = labels[row];
        y[row] = select(lse - x[from_x + min(label, p.width - 1u)], 0.0, label == 0xffffffffu);
    }
}
