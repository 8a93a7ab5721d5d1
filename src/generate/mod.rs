//! Generation: options, what it starts from, the steps, beam search.

pub(crate) mod beams;
pub(crate) mod check;
pub(crate) mod inputs;
pub(crate) mod options;
pub(crate) mod session;
