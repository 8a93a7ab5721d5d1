pub mod error;
pub mod image;
pub mod tensor;
pub mod text;
