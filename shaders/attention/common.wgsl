// What the kernels of attention share: parameters, all operands but keys and values, which rows keys are, and masks.
// Gives: HEAD_DIM, CACHED, MASK, p, q, past, key_row, masked, weight.

#import shared/floats

override HEAD_DIM: u32 = 64u;
override CACHED: u32 = 0u;         // keys lie where table says; otherwise in rows one after another
override MASK: u32 = 0u;           // 0 none, 1 causal, 2 causal and mask of keys, 3 additive

struct Params {
    count: u32,         // batch * heads * rows
    heads: u32,
    rows: u32,
    heads_per_key: u32, // heads / kv_heads
    q_width: u32,
    q_column: u32,
    k_width: u32,
    k_column: u32,
    v_width: u32,
    v_column: u32,
    capacity: u32,      // width of table, or number of keys
    batches: u32,
    mask_width: u32,
    zero_queries: u32,
    out_width: u32,     // of a row of probabilities
    past_stride: u32,   // 1 where each sequence has a past of its own, else 0
    scale: f32,
}

@group(0) @binding(1) var<storage, read> q: array<f32>;          // [batch * rows, q_width]
@group(0) @binding(4) var<storage, read> table: array<u32>;      // [batch, capacity]
@group(0) @binding(5) var<storage, read> past: array<u32>;       // [1] or [batch]
@group(0) @binding(6) var<storage, read> mask: array<u32>;       // [batch, mask_width], or f32 [batch, rows, mask_width]
@group(0) @binding(7) var<uniform> p: Params;

fn key_row(batch: u32, t: u32) -> u32 {
    if CACHED == 1u {
        return table[batch * p.capacity + t];
    }
    return batch % p.batches * p.capacity + t;
}

fn masked(score: f32, batch: u32, row: u32, t: u32, before: u32) -> f32 {
    if MASK == 0u {
        return score;
    }
    if MASK == 3u {
        let bits = mask[(batch * p.rows + row) * p.mask_width + t];
        // Negative infinity, which WGSL need not know, counts as LOWEST.
        if bits == 0xff800000u {
            return LOWEST;
        }
        return max(score + bitcast<f32>(bits), LOWEST);
    }
    var visible = t <= before + row;
    if MASK == 2u {
        visible = visible && mask[batch * p.mask_width + t] != 0u;
    }
    visible = visible || (row < p.zero_queries && t < p.zero_queries);
    return select(LOWEST, score, visible);
}

// exp of a number that is not positive; exactly 0 far down, whatever the adapter's exp does there.
fn weight(x: f32) -> f32 {
    return select(0.0, exp(x), x > -87.0);
}
