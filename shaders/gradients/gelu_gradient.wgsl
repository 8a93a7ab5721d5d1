// dx = dy (Phi(x) + x phi(x)), with the distribution and density of the normal distribution; an invocation an element.
// The error function is that of gelu.wgsl.

#import shared/grid
#import shared/erfc

override LANES: u32 = 64u;

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> dx: array<f32>;  // [count]
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [count]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [count]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let v = x[at];
    // Beyond 20 the density is 0 in f32; larger numbers would overflow in the square.
    let size = min(abs(v), 20.0);
    let tail = 0.5 * erfc(size * 0.70710678);
    let density = 0.39894228 * exp(-0.5 * size * size);
    dx[at] = dy[at] * (select(tail, 1.0 - tail, v > 0.0) + clamp(v, -20.0, 20.0) * density);
}
