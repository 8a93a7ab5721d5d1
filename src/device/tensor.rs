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

/// What holds a tensor's words on a GPU. On software adapters a load from a texture costs a fifth of one from a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Storage {
    Buffer,
    /// A texture of one 32-bit word a texel (`r32uint`), `TEXELS_PER_ROW` texels a row.
    Words,
    /// A texture of four 32-bit words a texel (`rgba32uint`), `TEXELS_PER_ROW` texels a row.
    Pieces,
}

/// Width of the textures that hold tensors: texel `i` is at (i mod 1024, i / 1024).
pub const TEXELS_PER_ROW: usize = 1024;
/// The most texels that such a texture has: WebGPU's default `maxTextureDimension2D` rows, 128 MiB of pieces.
pub const MAX_TEXELS: usize = TEXELS_PER_ROW * 8192;

impl Storage {
    /// Bytes a texel; of a buffer, bytes a word.
    pub fn texel_bytes(self) -> usize {
        match self {
            Storage::Buffer | Storage::Words => 4,
            Storage::Pieces => 16,
        }
    }
}

/// A handle to device memory: row-major and contiguous. Copying it copies no data; the [`Pool`](crate::device::Pool)
/// that made it owns the memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tensor {
    pub id: u32,
    pub dtype: DType,
    pub storage: Storage,
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
        Tensor { id, dtype, storage: Storage::Buffer, dims, rank: shape.len() as u8 }
    }

    /// The same tensor, held otherwise.
    pub fn stored(self, storage: Storage) -> Tensor {
        Tensor { storage, ..self }
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

    /// Bytes of device memory that it takes: textures have whole rows.
    pub fn held_bytes(&self) -> usize {
        match self.storage {
            Storage::Buffer => self.size_bytes(),
            Storage::Words | Storage::Pieces => {
                self.size_bytes().next_multiple_of(self.storage.texel_bytes() * TEXELS_PER_ROW)
            }
        }
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
        let new = Tensor::new(self.id, self.dtype, shape).stored(self.storage);
        assert_eq!(new.len(), self.len(), "reshape {:?} to {shape:?}", self.shape());
        new
    }
}
