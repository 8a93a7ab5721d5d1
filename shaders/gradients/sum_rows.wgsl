// y[k] = scale * sum of the rows of x that group k lists, or added to y: what gathering, repeating and embedding send back.
// An invocation an element; f32.

#import shared/grid

override LANES: u32 = 64u;

struct Params {
    count: u32,   // groups * width
    width: u32,
    add: u32,     // 1: added to y
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;   // [groups, width]
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [_, width]
@group(0) @binding(2) var<storage, read> starts: array<u32>;    // [groups + 1]: where each group's rows begin
@group(0) @binding(3) var<storage, read> members: array<u32>;   // rows of x
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * GRID_X) * LANES + lane;
    if at >= p.count {
        return;
    }
    let number = at / p.width;
    let column = at % p.width;
    var sum = 0.0;
    for (var i = starts[number]; i < starts[number + 1u]; i++) {
        sum += x[members[i] * p.width + column];
    }
    sum *= p.scale;
    if p.add == 1u {
        y[at] += sum;
    } else {
        y[at] = sum;
    }
}
