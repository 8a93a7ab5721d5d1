// A long grid is dispatched in parts: where in the grid a workgroup of a part stands.
// Gives: in_grid.

@group(1) @binding(0) var<uniform> first_x: u32;
@group(1) @binding(1) var<uniform> first_y: u32;

fn in_grid(workgroup: vec3<u32>) -> vec2<u32> {
    return workgroup.xy + vec2(first_x, first_y);
}
