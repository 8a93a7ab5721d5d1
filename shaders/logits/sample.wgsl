// A draw from softmax(score / temperature) after Hugging Face's top-k and top-p, a workgroup a row.
// Each weight exp((score - max) / temperature) is rounded to a fixed-point number of 2 * bits bits, kept as two limbs,
// so that sums are exact in any order. Ids are ordered by score, then index, largest first; radix descent (eight bits a
// pass) finds the id that holds a given point of the sum: top-k's cut, top-p's cut, the draw.
// The point of a draw is kept mass * u / 2^32, u = word 0 of Philox4x32-10 (Salmon et al., 2011).

#import shared/grid
#import shared/floats

override LANES: u32 = 256u;      // one for each digit of eight bits

struct Params {
    rows: u32,
    vocab: u32,
    top_k: u32,                  // 0: off
    use_top_p: u32,
    top_p: u32,                  // times 2^32
    seed_low: u32,
    seed_high: u32,
    bits: u32,                   // of a limb: vocab << bits is at most 2^32
    index_passes: u32,           // 256^index_passes is at least vocab
    temperature: f32,
    scale: f32,                  // 1 / temperature
}

// A sum is x << bits plus y.
@group(0) @binding(0) var<storage, read> scores: array<u32>;        // [rows, vocab], bits of f32
@group(0) @binding(1) var<storage, read> step: array<u32>;          // [1]
@group(0) @binding(2) var<storage, read_write> out: array<u32>;     // [rows]
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> high: array<atomic<u32>, LANES>;
var<workgroup> low: array<atomic<u32>, LANES>;
var<workgroup> sums: array<vec2<u32>, LANES>;
var<workgroup> blocks: array<vec2<u32>, 16>;                         // of sixteen sums
var<workgroup> parts: array<f32, LANES>;
var<workgroup> odd: atomic<u32>;
var<workgroup> choice: vec3<u32>;                                   // digit, the point within it

// High word of a 64-bit product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low_low = (a & 0xffffu) * (b & 0xffffu);
    let high_low = (a >> 16u) * (b & 0xffffu);
    let low_high = (a & 0xffffu) * (b >> 16u);
    let middle = (low_low >> 16u) + (high_low & 0xffffu) + (low_high & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (high_low >> 16u) + (low_high >> 16u) + (middle >> 16u);
}

fn philox(counter: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var key = seed;
    for (var round = 0u; round < 10u; round++) {
        c = vec4(
            multiply_high(0xCD9E8D57u, c.z) ^ c.y ^ key.x,
            0xCD9E8D57u * c.z,
            multiply_high(0xD2511F53u, c.x) ^ c.w ^ key.y,
            0xD2511F53u * c.x,
        );
        key += vec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

fn normal(sum: vec2<u32>) -> vec2<u32> {
    return vec2(sum.x + (sum.y >> p.bits), sum.y & ((1u << p.bits) - 1u));
}

fn less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x < b.x || (a.x == b.x && a.y < b.y);
}

// a - b of normal sums.
fn minus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let borrow = u32(a.y < b.y);
    return vec2(a.x - b.x - borrow, a.y + (borrow << p.bits) - b.y);
}

// floor(sum * fraction / 2^32), a unit less at most.
fn portion(sum: vec2<u32>, fraction: u32) -> vec2<u32> {
    let rest = (sum.x * fraction) >> (32u - p.bits);
    return normal(vec2(multiply_high(sum.x, fraction), rest + multiply_high(sum.y, fraction)));
}

fn weight_of(bits: u32, most: f32) -> vec2<u32> {
    // Below exp(-100) nothing is left after rounding.
    let distance = max(bitcast<f32>(bits) - most, -100.0 * p.temperature);
    let fixed = u32(exp(distance * p.scale) * f32(1u << (2u * p.bits)) + 0.5);
    let w = min(fixed, (1u << (2u * p.bits)) - 1u);
    return vec2(w >> p.bits, w & ((1u << p.bits) - 1u));
}

struct Found {
    order: u32,
    index: u32,
    point: vec2<u32>,            // within the id's own weight
}

// The id that holds `point` of the sum over all ids whose score's order is at least `floor`. Weights are 1 when
// `counting`; then only `order` of the result is meant.
fn find(row: u32, lane: u32, most: f32, floor: u32, counting: bool, point: vec2<u32>) -> Found {
    var mask = vec2(0u);
    var prefix = vec2(0u);
    var rest = point;
    let passes = select(4u + p.index_passes, 4u, counting);
    for (var pass_number = 0u; pass_number < passes; pass_number++) {
        var word = 0u;
        var shift = 24u - 8u * pass_number;
        if pass_number >= 4u {
            word = 1u;
            shift = 8u * (passes - 1u - pass_number);
        }
        atomicStore(&high[lane], 0u);
        atomicStore(&low[lane], 0u);
        workgroupBarrier();
        for (var i = lane; i < p.vocab; i += LANES) {
            let bits = scores[row * p.vocab + i];
            let rank = vec2(order_of(bits), i);
            if rank.x >= floor && all((rank & mask) == prefix) {
                let digit = (rank[word] >> shift) & 255u;
                var w = vec2(0u, 1u);
                if !counting {
                    w = weight_of(bits, most);
                }
                if w.x > 0u {
                    atomicAdd(&high[digit], w.x);
                }
                if w.y > 0u {
                    atomicAdd(&low[digit], w.y);
                }
            }
        }
        workgroupBarrier();
        // Lane l has the l-th largest digit.
        let own = vec2(atomicLoad(&high[255u - lane]), atomicLoad(&low[255u - lane]));
        sums[lane] = own;
        workgroupBarrier();
        if lane < 16u {
            var sum = vec2(0u);
            for (var j = 0u; j < 16u; j++) {
                sum += sums[lane * 16u + j];
            }
            blocks[lane] = sum;
        }
        workgroupBarrier();
        var larger = vec2(0u);
        for (var j = 0u; j < lane / 16u; j++) {
            larger += blocks[j];
        }
        for (var j = lane / 16u * 16u; j < lane; j++) {
            larger += sums[j];
        }
        let above = normal(larger);
        if !less(rest, above) && less(rest, normal(larger + own)) {
            choice = vec3(255u - lane, minus(rest, above));
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
        rest = c.yz;
    }
    return Found(prefix.x, prefix.y, rest);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    if lane == 0u {
        atomicStore(&odd, 0u);
    }
    workgroupBarrier();
    var most = LOWEST;
    for (var i = lane; i < p.vocab; i += LANES) {
        let bits = scores[row * p.vocab + i];
        if not_finite(bits) {
            atomicStore(&odd, 1u);
        } else {
            most = max(most, bitcast<f32>(bits));
        }
    }
    parts[lane] = most;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            parts[lane] = max(parts[lane], parts[lane + half]);
        }
        workgroupBarrier();
    }
    most = parts[0];

    var floor = 0u;
    if p.top_k > 0u {
        floor = find(row, lane, most, 0u, true, normal(vec2(0u, p.top_k - 1u))).order;
    }
    // All that is kept.
    workgroupBarrier();
    var own = vec2(0u);
    for (var i = lane; i < p.vocab; i += LANES) {
        let bits = scores[row * p.vocab + i];
        if order_of(bits) >= floor {
            own += weight_of(bits, most);
        }
    }
    sums[lane] = own;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    var kept = normal(sums[0]);
    workgroupBarrier();
    if p.use_top_p == 1u {
        // An id stays if the sum above it is less than this.
        let enough = portion(kept, p.top_p);
        var last = vec2(0u);
        if enough.x + enough.y > 0u {
            last = minus(enough, vec2(0u, 1u));
        }
        let cut = find(row, lane, most, floor, false, last);
        let w = weight_of(scores[row * p.vocab + cut.index], most);
        kept = normal(minus(last, cut.point) + w);
    }
    let u = philox(vec4(step[0], row, 0u, 0u), vec2(p.seed_low, p.seed_high)).x;
    let drawn = find(row, lane, most, floor, false, portion(kept, u));
    if lane == 0u {
        out[row] = select(drawn.index, 0xffffffffu, atomicLoad(&odd) == 1u);
    }
}
