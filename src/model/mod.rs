//! What users meet: a model, opened, that captions, matches, embeds, generates and runs forward.

pub(crate) mod adapters;
mod attention_map;
mod batch;
#[cfg(not(target_arch = "wasm32"))]
mod blocking;
mod builder;
mod calls;
pub(crate) mod check;
#[cfg(feature = "demo")]
pub mod demo;
pub(crate) mod footprint;
pub(crate) mod forward;
mod front;
pub(crate) mod nets;
pub(crate) mod network;
pub(crate) mod past;
#[cfg(test)]
mod pipelines;
mod recovery;
#[cfg(test)]
mod tables;
mod verdict;

pub use attention_map::AttentionMap;
pub use batch::{CaptionBatch, Captioned};
pub use builder::{Builder, Opened, Progress, read_tokenizer};
pub use check::{Check, CheckReport, Tried};
pub use forward::{ForwardInputs, ForwardOutputs, IGNORED_LABEL};
pub use front::{CAPTION_PROMPT, Caption, CaptionOptions, Generation, Matcher, Mode, Model, OnPiece, Piece, Prompt};
pub use past::PastKeyValues;
pub use recovery::Recovered;
