//! A portable engine for InternVL-14B on WebGPU: pictures in, captions, embeddings and match tables out.
//!
//! InternVL joins a vision encoder (InternViT) to a language model through QLLaMA, a LLaMA decoder whose every Nth layer
//! also attends from learned query tokens to the picture. This crate runs it on any GPU by Vulkan, Metal or DX12, in
//! browsers by WebGPU, and on the CPU.
//!
//! # Caption a picture
//!
//! ```no_run
//! let model = qllama::Model::open("InternVL-14B-224px")?;
//! let picture = qllama::Picture::open("cat.png")?;
//! println!("{}", model.caption(&picture, &Default::default())?.text);
//! # Ok::<(), qllama::Error>(())
//! ```
//!
//! # Other tasks
//!
//! | to | call |
//! |---|---|
//! | choose adapter, memory and progress | [`Model::builder`] |
//! | show text as it is made, and stop it | [`Model::caption_with`], [`Model::generate_with`] |
//! | search with beams, or sample | [`GenerateOptions`] in [`CaptionOptions`] |
//! | caption many pictures at once | [`Model::batch`], a [`CaptionBatch`] |
//! | compare pictures with texts | [`Model::match_texts`], with a [`Mode`] |
//! | embed pictures and texts | [`Model::embed_picture`], [`Model::embed_text`] |
//! | continue a text | [`Model::generate`] |
//! | see where the query tokens look | [`Model::attention_map`] |
//! | run the published `forward` | [`Model::forward`], [`Model::forward_train`] |
//! | list this machine's adapters | [`adapters`] |
//!
//! Each waits; each has a form that ends in `_async`, the only one in browsers. Errors have a stable [`Error::code`].
//!
//! # Features
//!
//! `demo` puts a model of 3 MB that names emoji into the crate: [`demo`]. Neither that nor anything of the command line is
//! there unless it is asked for.
//!
//! # How the code is laid out
//!
//! A row may use the rows above it, and no other; inside a folder nothing runs in a circle. The last column has names
//! that stand in one place alone. `tests/layers` holds the code to this table.
//!
//! | folder | what | names |
//! |---|---|---|
//! | `error` | codes and facts | |
//! | `panics` | those of other crates, caught | |
//! | `room` | host memory of a size that inputs choose | |
//! | `device` | tensors, recordings, and what plays them: a GPU, or the CPU | `wgpu` in `device/gpu` |
//! | `text` | tokenizers | |
//! | `files` | safetensors, GGUF, config.json: bytes in, checked structures out | `std::fs` in `files` |
//! | `image` | pictures to pixel values | |
//! | `weights` | checkpoint tensors to device memory, and how a matrix lies there | |
//! | `ops` | one op a file, beside one shader in `shaders` | |
//! | `nets` | InternViT, QLLaMA, the CLIP heads: the formulas | |
//! | `generate` | options, prompts, steps, beam search | |
//! | `model` | what users meet | |
//! | `bench` | what a model reaches on a device, beside what that can do at best | |
//! | `train` | losses, gradients, and the steps that weights take | |
//! | `quantize` | checkpoints with smaller weights | |
//! | `web` | the edge to JavaScript | `wasm_bindgen` in `web`, `web_sys` in `web`, `js_sys` in `web` |

mod bench;
mod device;
mod error;
mod files;
mod generate;
mod image;
mod model;
mod nets;
mod ops;
mod panics;
#[cfg(not(target_arch = "wasm32"))]
mod quantize;
mod room;
#[cfg(test)]
#[path = "../tests/common/shared.rs"]
mod shared;
mod text;
mod train;
#[cfg(target_arch = "wasm32")]
mod web;
mod weights;

pub use device::{Adapter, Array, Device, DeviceInfo, Maker, adapters};
pub use error::{Error, Result};
pub use files::config::{Config, LlamaConfig, VisionConfig};
pub use files::location::Location;
pub use files::notes::Notes;
#[cfg(not(target_arch = "wasm32"))]
pub use files::notes::NotesFolder;
pub use files::peft::{AdapterWeights, LowRank};
pub use files::source::{LocalFuture, Source};
pub use generate::beams::EarlyStopping;
pub use generate::inputs::GenerateInputs;
pub use generate::options::{GenerateOptions, KvCacheType, OptionField, Takes};
pub use image::{Picture, PixelValues, Preprocessor, Variation};
pub use model::{
    AttentionMap, Builder, CAPTION_PROMPT, Caption, CaptionBatch, CaptionOptions, Captioned, Check, CheckReport,
    ForwardInputs, ForwardOutputs, Generation, IGNORED_LABEL, Matcher, Mode, Model, OnPiece, Opened, PastKeyValues,
    Piece, Progress, Prompt, Recovered, Tried,
};
pub use ops::logits::sampling::Sampling;
pub use text::{DecodeStream, Tokenizer};
pub use train::{
    ALL_TARGETS, Batch, Example, Gradients, Lesson, Objective, Of, Schedule, StepReport, Taught, Trainer,
    TrainerOptions, TrainingState,
};

#[cfg(feature = "demo")]
pub use model::demo;

/// The engine's parts, for this project's own command line, tests and examples. Anything here may change at any time.
#[doc(hidden)]
pub mod internals {
    pub use crate::bench::{Figures, KernelLine, Roofs, StepRate, html, measure};
    pub use crate::device::count::Count;
    pub use crate::device::gpu::{Candidate, Gpu, LeftOut, candidates};
    pub use crate::device::recording::Recording;
    pub use crate::device::recording::{Kernel, PipelineKey};
    pub use crate::device::tensor::{DType, Storage, Tensor};
    pub use crate::device::wgsl::{Access, Binding};
    pub use crate::device::{Plan, Pool, Reader};
    pub use crate::error::printable;
    pub use crate::files::checkpoint::{Checkpoint, ElementType, Requirement};
    pub use crate::files::config::Target;
    pub use crate::files::gguf::{BlockType, Gguf};
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::files::random::{RandomCheckpoint, RandomFormat, published};
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::files::safetensors::{CheckpointWriter, NewTensor, file_header, read_tensor_file, write_tensors};
    pub use crate::files::safetensors::{
        NamedTensor, TensorInfo, TensorType, header_length, parse_header, read_tensors, tensors_to_bytes,
    };
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::files::source::Folder;
    pub use crate::files::source::{Memory, read_small};
    pub use crate::generate::beams::PAD;
    pub use crate::generate::check::check_ids;
    pub use crate::image::decode;
    pub use crate::model::check::kept_report;
    pub use crate::model::footprint::{Footprint, Phase};
    pub use crate::model::nets::{CROSS, INTERN_VIT, Residency};
    pub use crate::model::network::{Crossed, Network, Vision};
    pub use crate::model::read_tokenizer;
    pub use crate::nets::decoder::{CrossStates, Layer, Observed, Pass, Places, Qllama};
    pub use crate::ops::attention::heads::Heads;
    pub use crate::ops::attention::{Attention, Keys, Mask, View, attention};
    pub use crate::ops::cache::kv_cache::KvCache;
    pub use crate::ops::cache::rope::RopeTables;
    pub use crate::ops::examples::{Examples, Fill, Op};
    pub use crate::ops::rows::embed::embed;
    pub use crate::ops::{KERNELS, Rows};
    pub use crate::panics::in_words as panic_in_words;
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::quantize::{Event, QuantizeOptions, Summary, quantize};
    pub use crate::text::SUMMARIZE;
    pub use crate::weights::layout::{Format, Layout, StoredRows, write_rows};
    pub use crate::weights::loader::Loader;
    pub use crate::weights::matrix::{Matrix, Part};
}

/// The README's examples, compiled and run.
#[cfg(all(doctest, feature = "demo"))]
#[doc = include_str!("../README.md")]
struct Readme;
