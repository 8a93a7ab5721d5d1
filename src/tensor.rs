//! Tensors as the recorder sees them: a name for device memory, with a shape and an element type.

/// How elements are stored. Arithmetic is always in f32; the 16-bit types are storage only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    F32,
    F16,
    BF16,
    U32,
}

impl DType {
    /// Bytes an element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// A handle to device memory: row-major and contiguous. Copying it copies no data; the [`Pool`](crate::executor::Pool)
/// that made it owns the memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tensor {
    pub id: u32,
    pub dtype: DType,
    dims: [usize; 4],
    rank: u8,
}

impl Tensor {
    /// # Panics
    /// When the shape has more than four axes.
    pub fn new(id: u32, dtype: DType, shape: &[usize]) -> Tensor {
        assert!(shape.len() <= 4, "a tensor has at most 4 axes, not {shape:?}");
        let mut dims = [1; 4];
        dims[..shape.len()].copy_from_slice(shape);
        Tensor { id, dtype, dims, rank: shape.len() as u8 }
    }

    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in memory, rounded up to whole 32-bit words.
    pub fn size_bytes(&self) -> usize {
        (self.len() * self.dtype.bytes()).next_multiple_of(4)
    }

    /// The length of the last axis.
    pub fn width(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    /// The product of all axes but the last.
    pub fn rows(&self) -> usize {
        self.len() / self.width().max(1)
    }

    /// The same memory seen with another shape of as many elements.
    pub fn reshape(self, shape: &[usize]) -> Tensor {
        let new = Tensor::new(self.id, self.dtype, shape);
        assert_eq!(new.len(), self.len(), "reshape {:?} to {shape:?}", self.shape());
        new
    }
}
