// Cuts pictures into square patches, an invocation an element. Rows are patches in row-major order, columns are in
// the order of a convolution's weight [out, channels, patch, patch].

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,
    channels: u32,
    height: u32,
    width: u32,
    patch_size: u32,
}

@group(0) @binding(0) var<storage, read> pixel_values: array<f32>;  // [batch, channels, height, width]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;       // [batch * grid_h * grid_w, channels * patch_size^2]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let area = p.patch_size * p.patch_size;
    let column = at % (p.channels * area);
    let row = at / (p.channels * area);
    let grid_h = p.height / p.patch_size;
    let grid_w = p.width / p.patch_size;
    let plane = row / (grid_h * grid_w) * p.channels + column / area;
    let pixel_y = row / grid_w % grid_h * p.patch_size + column % area / p.patch_size;
    let pixel_x = row % grid_w * p.patch_size + column % p.patch_size;
    y[at] = pixel_values[(plane * p.height + pixel_y) * p.width + pixel_x];
}
