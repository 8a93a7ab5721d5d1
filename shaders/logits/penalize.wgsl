// Hugging Face's logits processors in their order, in place, a workgroup a row: repetition penalty (score < 0: times
// the penalty, else divided by it, once an id), no repeated n-grams, minimum length. Banned scores become LOWEST and
// nothing leaves the finite range. f32.

#import shared/grid
#import shared/floats

override LANES: u32 = 256u;

struct Params {
    rows: u32,
    vocab: u32,
    capacity: u32,
    eos_count: u32,
    penalty: f32,
    ngram: u32,
    min_new: u32,
    lengths_stride: u32,  // 2 where each row has lengths of its own, else 0
}

@group(0) @binding(0) var<storage, read> history: array<u32>;       // [rows, capacity]
@group(0) @binding(1) var<storage, read> lengths: array<u32>;       // [2] or [rows, 2]: ids in history, those that are not new
@group(0) @binding(2) var<storage, read> eos: array<u32>;           // [eos_count]
@group(0) @binding(3) var<storage, read_write> scores: array<f32>;  // [rows, vocab]
@group(0) @binding(4) var<uniform> p: Params;

fn penalized(score: f32) -> f32 {
    if not_finite(bitcast<u32>(score)) || score == LOWEST {
        return score;
    }
    if score < 0.0 {
        if score < LOWEST / max(p.penalty, 1.0) {
            return LOWEST;
        }
        return score * p.penalty;
    }
    if score > -LOWEST * min(p.penalty, 1.0) {
        return -LOWEST;
    }
    return score / p.penalty;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * GRID_X;
    if row >= p.rows {
        return;
    }
    let ids = row * p.capacity;
    let to = row * p.vocab;
    let length = min(lengths[row * p.lengths_stride], p.capacity);
    if p.penalty != 1.0 {
        for (var i = lane; i < length; i += LANES) {
            let id = history[ids + i];
            var first = id < p.vocab;
            for (var j = 0u; j < i && first; j++) {
                first = history[ids + j] != id;
            }
            if first {
                scores[to + id] = penalized(scores[to + id]);
            }
        }
    }
    storageBarrier();
    workgroupBarrier();
    if p.ngram > 0u {
        let prefix = p.ngram - 1u;
        // Wraps when there are fewer ids than that; then no i follows.
        let tail = length - prefix;
        for (var i = lane; i + prefix < length; i += LANES) {
            var same = true;
            for (var j = 0u; j < prefix && same; j++) {
                same = history[ids + i + j] == history[ids + tail + j];
            }
            let id = history[ids + i + prefix];
            if same && id < p.vocab {
                scores[to + id] = LOWEST;
            }
        }
    }
    if length < lengths[row * p.lengths_stride + 1u] + p.min_new {
        for (var i = lane; i < p.eos_count; i += LANES) {
            if eos[i] < p.vocab {
                scores[to + eos[i]] = LOWEST;
            }
        }
    }
}
