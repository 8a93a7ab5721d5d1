//! What quantizing is told, and what it tells.

/// How to pack.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// 4 or 8.
    pub bits: u32,
    /// Neighbours of a row that share a scale: a multiple of 8. `None` is one scale a row.
    pub group_size: Option<usize>,
    /// Whether integers have their zero in the middle, or each group its own.
    pub symmetric: bool,
    /// Modules that stay as they are: names such as `lm_head`, or patterns such as `re:vision_model\.`.
    pub ignore: Vec<String>,
}

impl Default for QuantizeOptions {
    fn default() -> QuantizeOptions {
        QuantizeOptions { bits: 4, group_size: Some(32), symmetric: true, ignore: Vec::new() }
    }
}

/// A matrix that was packed.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// The module's name: the tensor's without `.weight`.
    pub name: String,
    pub rows: u64,
    pub cols: u64,
    /// Sum of squared differences to the source.
    pub error: f64,
    /// Sum of the source's squares.
    pub squares: f64,
}

impl Packed {
    /// Squared error over the sum of squares.
    pub fn relative_error(&self) -> f64 {
        if self.squares > 0.0 { self.error / self.squares } else { 0.0 }
    }
}

/// A matrix of a linear layer that stays as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The module's name.
    pub name: String,
    pub reason: String,
}

/// What has happened, for whoever waits.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Bytes of weights read so far, and of all there are.
    Progress {
        bytes: u64,
        total: u64,
    },
    /// An earlier run had packed or copied this many tensors already.
    Resumed {
        tensors: usize,
    },
    /// What an earlier run had done was of another source or other options, and is done again.
    Anew,
    Packed(&'a Packed),
    Kept(&'a Kept),
}

/// What `quantize` did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub packed: Vec<Packed>,
    pub kept: Vec<Kept>,
    /// Bytes of all tensors before and after.
    pub source_bytes: u64,
    pub written_bytes: u64,
    pub files: Vec<String>,
}

impl Summary {
    /// Squared error of all packed matrices over the sum of their squares.
    pub fn relative_error(&self) -> f64 {
        let (error, squares) = self.packed.iter().fold((0.0, 0.0), |(e, s), p| (e + p.error, s + p.squares));
        if squares > 0.0 { error / squares } else { 0.0 }
    }
}
