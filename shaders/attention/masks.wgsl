// Which keys a row of attention sees, and the weights of scores; of attention and of its gradient.
// Needs: mask, p.
// Gives: MASK, masked, weight.

#import shared/floats

override MASK: u32 = 0u;   // 0 none, 1 causal, 2 causal and mask of keys, 3 additive

// The score of key `t` with the mask's part in it, `before` keys lying before those of row 0; LOWEST where it is blocked.
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
