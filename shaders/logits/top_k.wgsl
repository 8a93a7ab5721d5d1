// The k largest of each row, largest first and the lower index first among equals; a workgroup a row.
// Radix selection on ranks of 64 bits (the value's order, then the inverted index), eight bits a pass, until all that
// share the prefix are wanted; then the chosen ones are put in order. No arithmetic on the values: exact.

#import shared/grid
#import shared/floats

override LANES: u32 = 256u;      // one for each digit of eight bits

struct Params {
    rows: u32,
    vocab: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read> scores: array<u32>;        // [rows, vocab], bits of f32
@group(0) @binding(1) var<storage, read_write> values: array<u32>;  // [rows, k], bits of f32
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;     // [rows, k]
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> counts: array<atomic<u32>, LANES>;
var<workgroup> sums: array<u32, LANES>;
var<workgroup> blocks: array<u32, 16>;                               // sums of sixteen
var<workgroup> choice: vec3<u32>;                                   // digit, wanted of it, present of it
var<workgroup> chosen: array<vec2<u32>, 64>;
var<workgroup> taken: atomic<u32>;
var<workgroup> odd: atomic<u32>;

fn rank_of(row: u32, i: u32) -> vec2<u32> {
    return vec2(order_of(scores[row * p.vocab + i]), ~i);
}

// How many of those that are counted have a larger digit than the `present` ones of this lane; lane l has the l-th largest.
fn count_larger(present: u32, lane: u32) -> u32 {
    sums[lane] = present;
    workgroupBarrier();
    if lane < 16u {
        var sum = 0u;
        for (var j = 0u; j < 16u; j++) {
            sum += sums[lane * 16u + j];
        }
        blocks[lane] = sum;
    }
    workgroupBarrier();
    var larger = 0u;
    for (var j = 0u; j < lane / 16u; j++) {
        larger += blocks[j];
    }
    for (var j = lane / 16u * 16u; j < lane; j++) {
        larger += sums[j];
    }
    return larger;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    // The passes below have barriers before either is used.
    if lane == 0u {
        atomicStore(&taken, 0u);
        atomicStore(&odd, 0u);
    }
    let k = min(p.k, p.vocab);
    var mask = vec2(0u);
    var prefix = vec2(0u);
    var wanted = k;
    for (var pass_number = 0u; pass_number < 8u; pass_number++) {
        let word = pass_number / 4u;
        let shift = 24u - pass_number % 4u * 8u;
        atomicStore(&counts[lane], 0u);
        workgroupBarrier();
        for (var i = lane; i < p.vocab; i += LANES) {
            let rank = rank_of(row, i);
            if all((rank & mask) == prefix) {
                atomicAdd(&counts[(rank[word] >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        let present = atomicLoad(&counts[255u - lane]);
        let larger = count_larger(present, lane);
        if larger < wanted && wanted <= larger + present {
            choice = vec3(255u - lane, wanted - larger, present);
        }
        let c = workgroupUniformLoad(&choice);
        // By name: HLSL's compiler knows no store into a component whose number is not a constant.
        if word == 0u {
            prefix.x |= c.x << shift;
            mask.x |= 255u << shift;
        } else {
            prefix.y |= c.x << shift;
            mask.y |= 255u << shift;
        }
        wanted = c.y;
        if c.y == c.z {
            break;
        }
    }
    for (var i = lane; i < p.vocab; i += LANES) {
        let rank = rank_of(row, i);
        let m = rank & mask;
        if m.x > prefix.x || (m.x == prefix.x && m.y >= prefix.y) {
            chosen[atomicAdd(&taken, 1u)] = rank;
        }
        if not_finite(scores[row * p.vocab + i]) {
            atomicStore(&odd, 1u);
        }
    }
    workgroupBarrier();
    let out = row * p.k;
    if lane < k {
        let own = chosen[lane];
        var place = 0u;
        for (var j = 0u; j < k; j++) {
            let other = chosen[j];
            place += u32(other.x > own.x || (other.x == own.x && other.y > own.y));
        }
        values[out + place] = scores[row * p.vocab + ~own.y];
        ids[out + place] = select(~own.y, 0xffffffffu, place == 0u && atomicLoad(&odd) == 1u);
    } else if lane < p.k {
        values[out + lane] = bitcast<u32>(LOWEST);
        ids[out + lane] = 0xffffffffu;
    }
}
