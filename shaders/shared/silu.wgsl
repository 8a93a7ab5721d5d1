// The gate of LLaMA's MLP.
// Gives: silu.

// g / (1 + exp(-g)), with exp of nothing above 0, so that it never overflows.
fn silu(g: f32) -> f32 {
    let e = exp(-abs(g));
    return g * select(e, 1.0, g >= 0.0) / (1.0 + e);
}
