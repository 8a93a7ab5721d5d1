//! Keys and values, and the counters of a step.

pub mod advance;
pub mod kv_cache;
pub mod reorder;
pub mod rope;
