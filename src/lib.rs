pub mod checkpoint;
pub mod config;
pub mod error;
pub mod source;
pub mod tensor;
