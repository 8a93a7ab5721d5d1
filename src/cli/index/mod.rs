//! `qllama index`, `qllama search` and `qllama duplicates`: pictures by what is in them.

pub mod build;
pub mod duplicates;
mod file;
mod fingerprint;
mod page;
pub mod product;
pub mod search;
