//! What of the engine the tests use, from wherever it stands: no other file of the tests names the library's items.
#![allow(unused_imports)]

pub use qllama::internals::{
    BlockType, Candidate, Checkpoint, CheckpointWriter, CrossStates, Crossed, DType, ElementType, Event, Folder,
    Footprint, Format, Gguf, Gpu, Keys, KvCache, Loader, Mask, Memory, NamedTensor, Network, NewTensor, Observed, Pass,
    QuantizeOptions, RandomCheckpoint, RandomFormat, Recording, Requirement, Residency, Rows, SUMMARIZE, StoredRows,
    Summary, Target, TensorType, Vision, candidates, decode as decode_image, embed, header_length, parse_header,
    published, quantize, read_tensor_file, read_tensors, tensors_to_bytes, write_tensors,
};
pub use qllama::{
    AdapterWeights, Array, Batch, Builder, CAPTION_PROMPT, CaptionOptions, Check, Config, Device, DeviceInfo,
    EarlyStopping, Error, ForwardInputs, ForwardOutputs, GenerateInputs, GenerateOptions, Generation, Gradients,
    KvCacheType, LocalFuture, Location, Mode, Model, Objective, Of, PastKeyValues, Picture, Piece, PixelValues,
    Preprocessor, Prompt, Recovered, Result, Sampling, Source, Tokenizer, TrainerOptions, TrainingState, adapters,
};
