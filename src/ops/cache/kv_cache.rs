//! One layer's keys and values, which grow by a row a step.

use crate::device::Pool;
use crate::device::tensor::{DType, MAX_TEXELS, Storage, Tensor};
use crate::error::Result;
use crate::ops::attention::heads::Heads;

/// One layer's keys (after RoPE) and values, each [slots, kv_heads * head_dim] of F32 or F16; F16 needs a `head_dim`
/// that is a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub struct KvCache {
    pub k: Tensor,
    pub v: Tensor,
}

impl KvCache {
    /// The storage for `rows` rows of keys, or of values, on a device that reads from `preferred` fastest. Textures need
    /// halves of heads that are whole 16-byte pieces.
    pub fn storage(preferred: Storage, dtype: DType, rows: usize, heads: Heads) -> Storage {
        let piece = 16 / dtype.bytes();
        let whole = (heads.head_dim / 2).is_multiple_of(piece);
        if whole && rows * heads.kv_width() / piece <= MAX_TEXELS { preferred } else { Storage::Buffer }
    }

    /// Allocates a cache of `rows` rows. What lies in textures cannot be read back.
    ///
    /// # Errors
    /// Those of [`Pool::alloc`].
    pub fn alloc(pool: &mut Pool, dtype: DType, rows: usize, heads: Heads) -> Result<KvCache> {
        let storage = KvCache::storage(pool.device().info().weights, dtype, rows, heads);
        let shape = [rows, heads.kv_width()];
        Ok(KvCache { k: pool.alloc_in(storage, dtype, &shape)?, v: pool.alloc_in(storage, dtype, &shape)? })
    }
}
