// A step of AdamW (Loshchilov and Hutter, 2019) as torch takes it: w *= 1 - rate * decay; m = b1 m + (1 - b1) g;
// v = b2 v + (1 - b2) g^2; w -= rate * (m * m_factor) / (sqrt(v * v_factor) + eps), with g clipped by clip. An invocation an
// element; f32.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
}

// What changes from step to step.
struct Step {
    rate: f32,
    clip: f32,       // what the gradient is multiplied by
    m_factor: f32,   // 1 / (1 - b1^t)
    v_factor: f32,   // 1 / (1 - b2^t)
}

@group(0) @binding(0) var<storage, read_write> w: array<f32>;  // [count]
@group(0) @binding(1) var<storage, read_write> m: array<f32>;  // [count]
@group(0) @binding(2) var<storage, read_write> v: array<f32>;  // [count]
@group(0) @binding(3) var<storage, read> g: array<f32>;        // [count]
@group(0) @binding(4) var<storage, read> step_: Step;          // [4]
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let gradient = g[at] * step_.clip;
    let mean = p.beta1 * m[at] + (1.0 - p.beta1) * gradient;
    let square = p.beta2 * v[at] + (1.0 - p.beta2) * gradient * gradient;
    m[at] = mean;
    v[at] = square;
    let kept = w[at] * (1.0 - step_.rate * p.decay);
    w[at] = kept - step_.rate * (mean * step_.m_factor) / (sqrt(square * step_.v_factor) + p.eps);
}
