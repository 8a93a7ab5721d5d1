//! The pieces of a vocabulary, and what stands beside them.

/// How SentencePiece writes a space.
pub(super) const SPACE: &str = "▁";

/// What a piece of the vocabulary is (`SentencePiece.Type` in SentencePiece's file format).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte(u8),
}

/// A piece of the vocabulary.
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// The parts of a SentencePiece BPE vocabulary that stand outside its list of pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SentencePieceOptions {
    /// Id of the piece that begins a sequence.
    pub bos_id: u32,
    /// Id of the piece that ends a sequence.
    pub eos_id: u32,
    /// Id of the piece for what the vocabulary cannot write.
    pub unk_id: u32,
    /// Whether a space is put before every text.
    pub add_dummy_prefix: bool,
    /// Whether spaces at both ends are dropped and runs of spaces become one.
    pub remove_extra_whitespaces: bool,
    /// Whether a character outside the vocabulary is written as its bytes.
    pub byte_fallback: bool,
}

/// What ids mean.
pub(super) struct Vocabulary {
    pub(super) pieces: Vec<Piece>,
    pub(super) options: SentencePieceOptions,
    /// Whether normal pieces are bytes, as GPT-2's alphabet writes them.
    pub(super) byte_level: bool,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pieces, {:?}", self.pieces.len(), self.options)
    }
}
