//! Generation: options, what it starts from, the steps, beam search.

mod ahead;
pub(crate) mod batch;
pub(crate) mod beams;
pub(crate) mod check;
mod choose;
#[cfg(test)]
mod counts;
pub(crate) mod inputs;
pub(crate) mod options;
pub(crate) mod probe;
pub(crate) mod session;
