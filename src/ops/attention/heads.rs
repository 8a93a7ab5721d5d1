//! How rows of queries, keys and values are cut into heads.

/// How the width of queries, keys and values is cut into heads. Query head `h` uses key head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    /// What queries are multiplied by: `1 / sqrt(head_dim)`.
    pub fn scale(self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    /// Columns of the queries.
    pub fn q_width(self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the keys, and of the values.
    pub fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }
}
