// 0.5 x (1 + erf(x / sqrt 2)), an invocation an element; erf by Abramowitz and Stegun 7.1.26 is too rough.

override LANES: u32 = 64u;

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [count]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;     // [count]
@group(0) @binding(2) var<uniform> p: Params;

fn erfc_positive(a: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * a);
    let poly = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807
        + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    return t * exp(-a * a + poly);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (group.x + group.y * GRID_X) * LANES + lane;
    if id >= p.count {
        return;
    }
    let v = x[id];
    let tail = erfc_positive(min(abs(v) * 0.70710678, 9.0));
    y[id] = 0.5 * v * select(tail, 2.0 - tail, v >= 0.0);
}
