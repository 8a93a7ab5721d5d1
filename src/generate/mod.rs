//! Generation: options, prompts, the steps, beam search.

pub mod beams;
pub mod prompt;
pub mod session;
