//! Tensors on the host.

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
