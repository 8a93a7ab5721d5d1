pub mod error;
pub mod tensor;
pub mod text;
