//! How the next id is drawn.

/// How the next id is drawn: Hugging Face's warpers in their order, temperature, top-k, top-p.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// Above 0: scores are divided by it.
    pub temperature: f32,
    /// Ids with less than the k-th largest score are out (equals of it stay); 0: none is.
    pub top_k: usize,
    /// The most likely ids whose probabilities reach this sum stay, at least one; of equals the higher index first, as
    /// a stable ascending sort has it. 1: all stay.
    pub top_p: f32,
    pub seed: u64,
}

impl Default for Sampling {
    /// Hugging Face's: draws among the 50 most likely ids.
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_k: 50, top_p: 1.0, seed: 0 }
    }
}

/// The smallest temperature: what is smaller is the greedy choice.
pub const MIN_TEMPERATURE: f32 = 1e-6;

/// The largest temperature.
pub const MAX_TEMPERATURE: f32 = 1e6;
