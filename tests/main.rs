//! The integration tests, but for those that count what the process allocates, which are in `heap.rs`.

mod bad_input;
mod bad_tensors;
mod batch;
mod checkpoint;
mod cli;
mod common;
mod config;
mod decoder;
mod drivers;
mod emoji;
mod folder;
mod front;
mod gguf;
mod hub;
mod internvl;
mod kv_cache;
mod layers;
mod limits;
mod losses;
mod published;
mod quantize;
mod ray;
mod recovery;
mod residency;
mod search;
mod train;
