//! The one error type of the crate. Every variant has a stable code (`Error::code`) that programs may match on,
//! and a message that names the file or field, what was expected and what was found. File names are base names.

use std::sync::Arc;

/// What a fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong outside this crate's own code.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{file}: {reason}")]
    Io { file: String, reason: String },
    /// As `Io`, with what the system said.
    #[error("{file}: {cause}")]
    System {
        file: String,
        #[source]
        cause: SystemError,
    },
    #[error("{file}: malformed at byte {offset}: {reason}")]
    Header { file: String, offset: u64, reason: String },
    #[error("{file}: the file is cut short: {need} bytes needed, {have} found")]
    Truncated { file: String, need: u64, have: u64 },
    #[error("{file}: tensor {tensor}: {reason}")]
    TensorRange { file: String, tensor: String, reason: String },
    #[error("{file}: {key} appears twice")]
    DuplicateKey { file: String, key: String },
    #[error("{file}: tensor {tensor} has type {found}, expected {expected}")]
    DType { file: String, tensor: String, expected: String, found: String },
    #[error("{file}: the size of {tensor} does not fit 64 bits")]
    Overflow { file: String, tensor: String },
    #[error("the checkpoint lacks {total} tensor(s) that the model needs: {names}")]
    MissingTensor { names: String, total: usize },
    #[error("{what}: expected shape {expected}, found {found}")]
    Shape { what: String, expected: String, found: String },
    #[error("{what}: element {index} is not a finite number")]
    NonFinite { what: String, index: u64 },
    #[error("{file}: {name:?} is not a plain file name beside the index")]
    Path { file: String, name: String },
    #[error("{file} names {shard}, which is not there")]
    MissingShard { file: String, shard: String },
    #[error("{file}: {pointer}: {rule}")]
    Config { file: String, pointer: String, rule: String },
    #[error("{file}: {reason}")]
    Tokenizer { file: String, reason: String },
    #[error("{file}: {reason}")]
    Image { file: String, reason: String },
    #[error("token {id} at index {index} is outside the vocabulary of {vocab}")]
    Token { index: usize, id: i64, vocab: usize },
    #[error("{need} positions needed, but the model's limit (max_position_embeddings) is {max}")]
    Context { need: usize, max: usize },
    #[error("{what}: expected {expected}, found {found}")]
    InputShape { what: String, expected: String, found: String },
    #[error("{reason}")]
    Input { reason: String },
    #[error("{reason}")]
    Adapter { reason: String },
    #[error("the adapter allows {have} for {name}, but {need} is needed")]
    Limit { name: String, need: u64, have: u64 },
    #[error(
        "the memory budget is {have} bytes, but {need} are needed{what}: give more, or take a checkpoint with weights of \
         4 or 8 bits"
    )]
    Budget { what: String, need: u64, have: u64 },
    /// `asked` is 0 where a driver asked for records of its own, and does not say how much.
    #[error("out of memory: {} asked for with {held} bytes held; {hint}", asked_in_words(*asked))]
    OutOfMemory { asked: u64, held: u64, hint: String },
    #[error("{what}: the computer has not the {asked} bytes of memory that this may take")]
    HostMemory { what: String, asked: u64 },
    #[error("the GPU device was lost: {reason}")]
    DeviceLost { reason: String },
    #[error("GPU error: {reason}")]
    Gpu { reason: String },
    #[error("{url}: HTTP status {status}: {reason}")]
    Http { url: String, status: u16, reason: String },
    #[error("{file}: contents do not match: expected {expected}, found {found}")]
    Integrity { file: String, expected: String, found: String },
    #[error("storage: {reason}")]
    Storage { reason: String },
    #[error("{reason}")]
    State { reason: String },
    #[error("cancelled")]
    Aborted,
}

impl Error {
    /// The stable name of this kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } | Error::System { .. } => "E_IO",
            Error::Header { .. } => "E_HEADER",
            Error::Truncated { .. } => "E_TRUNCATED",
            Error::TensorRange { .. } => "E_TENSOR_RANGE",
            Error::DuplicateKey { .. } => "E_DUP_KEY",
            Error::DType { .. } => "E_DTYPE",
            Error::Overflow { .. } => "E_OVERFLOW",
            Error::MissingTensor { .. } => "E_MISSING_TENSOR",
            Error::Shape { .. } => "E_SHAPE",
            Error::NonFinite { .. } => "E_NONFINITE",
            Error::Path { .. } => "E_PATH",
            Error::MissingShard { .. } => "E_MISSING_SHARD",
            Error::Config { .. } => "E_CONFIG",
            Error::Tokenizer { .. } => "E_TOKENIZER",
            Error::Image { .. } => "E_IMAGE",
            Error::Token { .. } => "E_TOKEN",
            Error::Context { .. } => "E_CONTEXT",
            Error::InputShape { .. } => "E_INPUT_SHAPE",
            Error::Input { .. } => "E_INPUT",
            Error::Adapter { .. } => "E_ADAPTER",
            Error::Limit { .. } | Error::Budget { .. } => "E_LIMIT",
            Error::OutOfMemory { .. } | Error::HostMemory { .. } => "E_OOM",
            Error::DeviceLost { .. } => "E_DEVICE_LOST",
            Error::Gpu { .. } => "E_GPU",
            Error::Http { .. } => "E_HTTP",
            Error::Integrity { .. } => "E_INTEGRITY",
            Error::Storage { .. } => "E_STORAGE",
            Error::State { .. } => "E_STATE",
            Error::Aborted => "E_ABORTED",
        }
    }
}

fn asked_in_words(bytes: u64) -> String {
    if bytes == 0 { "records of the driver's own were".into() } else { format!("{bytes} bytes") }
}

/// An error of the system, which all copies of an [`Error`] share.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct SystemError(Arc<std::io::Error>);

impl SystemError {
    /// What kind of error the system said it is.
    pub fn kind(&self) -> std::io::ErrorKind {
        self.0.kind()
    }
}

impl From<std::io::Error> for SystemError {
    fn from(error: std::io::Error) -> SystemError {
        SystemError(Arc::new(error))
    }
}

impl PartialEq for SystemError {
    fn eq(&self, other: &SystemError) -> bool {
        self.0.kind() == other.0.kind() && self.0.to_string() == other.0.to_string()
    }
}

/// A name out of a file, made safe to print: what terminals obey is escaped, at most 120 characters are left. What came
/// out of this comes through it as it is.
pub fn printable(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().take(120) {
        match c {
            '\\' | '"' | '\'' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out = out.chars().take(120).collect();
    if name.chars().nth(120).is_some() {
        out.push('…');
    }
    out
}
