//! Keys and values, and the counters of a step.

pub mod advance;
pub mod reorder;
pub mod rope;
