//! Tensors on the host.

use crate::error::{Error, Result};

/// A tensor on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    pub shape: Vec<usize>,
    pub values: Vec<T>,
}

impl<T> Array<T> {
    /// # Panics
    /// When shape and number of values disagree.
    pub fn new(shape: &[usize], values: Vec<T>) -> Array<T> {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "an array of shape {shape:?}");
        Array { shape: shape.to_vec(), values }
    }
}

/// # Errors
/// `E_NONFINITE` with the index of the first value that is NaN or infinite.
pub(crate) fn check_finite(what: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NonFinite { what: what.into(), index: index as u64 }),
        None => Ok(()),
    }
}
