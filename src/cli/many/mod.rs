//! Many pictures: what lists them, what reads them while a model works, and how far a run is.

pub mod list;
pub mod names;
pub mod progress;
pub mod read;
pub mod shard;
pub mod stop;
