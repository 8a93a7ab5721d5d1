//! Checkpoints by their names on the Hugging Face hub: downloads into the cache that Python's `huggingface_hub` uses, too.
//!
//! The client is our own, on `ureq`: the crate `hf-hub` brings an asynchronous runtime and ten times as many crates, and
//! neither verifies what came nor goes on within a file.

mod cache;
mod client;
mod digest;
mod download;
mod fetch;
mod name;

pub use cache::{Cache, Kept};
pub use fetch::fetch;
pub use name::Name;
