// What the kernels of attention share: parameters, all operands but keys and values, which rows keys are, and masks.
// Gives: HEAD_DIM, CACHED, p, q, past, mask, key_row, Keys, keys_of.

#import attention/masks

override HEAD_DIM: u32 = 64u;
override CACHED: u32 = 0u;         // keys lie where table says; otherwise in rows one after another

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

// The keys of a row of q: `count`, the first `before` of which were there before this call's; it sees none from `limit` on.
struct Keys {
    before: u32,
    count: u32,
    limit: u32,
}

fn keys_of(batch: u32, row: u32) -> Keys {
    var keys = Keys(0u, p.capacity, p.capacity);
    if CACHED == 1u {
        keys.before = past[batch * p.past_stride];
        keys.count = min(keys.before + p.rows, p.capacity);
        keys.limit = keys.count;
    }
    if MASK == 1u || MASK == 2u {
        var limit = keys.before + row + 1u;
        if row < p.zero_queries {
            limit = max(limit, p.zero_queries);
        }
        keys.limit = min(limit, keys.count);
    }
    return keys;
}
