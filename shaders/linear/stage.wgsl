// y[row, i] = x[row, i], zeros behind the last column: an invocation WORDS neighbouring words. A copy of bits.

#import shared/grid
#import linear/staged_in_{1}

override LANES: u32 = 64u;

struct Params {
    first: u32,       // word of x at which row 0 begins
    cols: u32,
    width: u32,
    count: u32,       // rows * width / WORDS
}

@group(0) @binding(0) var<storage, read> x: array<u32>;  // [_, cols]
@group(0) @binding(2) var<uniform> p: Params;

fn word(row: u32, column: u32) -> u32 {
    if column < p.cols {
        return x[p.first + row * p.cols + column];
    }
    return 0u;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (group.x + group.y * GRID_X) * LANES + lane;
    if index >= p.count {
        return;
    }
    let units = p.width / WORDS;
    let row = index / units;
    let column = index % units * WORDS;
    var words = vec4(word(row, column), 0u, 0u, 0u);
    if WORDS == 4u {
        words = vec4(words.x, word(row, column + 1u), word(row, column + 2u), word(row, column + 3u));
    }
    store(index, words);
}
