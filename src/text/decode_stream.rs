//! Ids to text, as they come.

use std::sync::Arc;

use super::byte_pairs;
use super::vocabulary::{Kind, SPACE, Vocabulary};

/// Decodes ids as they come. What [`push`](DecodeStream::push) and then [`finish`](DecodeStream::finish) return, joined,
/// is what [`Tokenizer::decode`](crate::Tokenizer::decode) gives for all of them.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    vocabulary: Arc<Vocabulary>,
    /// Bytes of a character that is not whole yet.
    pending: Vec<u8>,
    first_piece: bool,
    text_begun: bool,
    /// The last piece gave up the space before the text.
    space_taken: bool,
}

impl DecodeStream {
    pub(super) fn new(vocabulary: &Arc<Vocabulary>) -> DecodeStream {
        let vocabulary = vocabulary.clone();
        DecodeStream { vocabulary, pending: Vec::new(), first_piece: true, text_begun: false, space_taken: false }
    }

    /// Takes the next id and returns the text that is now final: often a word, nothing while a character written in
    /// bytes is incomplete, never half a character.
    pub fn push(&mut self, id: u32) -> String {
        let vocabulary = self.vocabulary.clone();
        let o = &vocabulary.options;
        let Some(piece) = vocabulary.pieces.get(id as usize) else { return String::new() };
        if id == o.bos_id || id == o.eos_id || id == o.unk_id {
            return String::new();
        }
        let first = std::mem::replace(&mut self.first_piece, false);
        let mut out = String::new();
        if let Kind::Byte(byte) = piece.kind {
            self.pending.push(byte);
            self.take_characters(false, &mut out);
            self.text_begun |= !out.is_empty();
            return out;
        }
        if piece.kind == Kind::Normal && vocabulary.byte_level {
            self.pending.extend(byte_pairs::bytes_of(&piece.text));
            self.take_characters(false, &mut out);
            return out;
        }
        self.take_characters(true, &mut out);
        self.text_begun |= !out.is_empty() || self.space_taken;
        self.space_taken = false;
        if piece.kind == Kind::Control {
            return out;
        }
        let mut text = piece.text.as_str();
        if vocabulary.byte_level {
            out.push_str(text);
            return out;
        }
        if first {
            text = text.strip_prefix(SPACE).unwrap_or(text);
        }
        if !self.text_begun
            && (o.add_dummy_prefix || o.remove_extra_whitespaces)
            && let Some(rest) = text.strip_prefix(SPACE)
        {
            text = rest;
            self.space_taken = !o.remove_extra_whitespaces;
        }
        self.text_begun |= !text.is_empty();
        out.push_str(&text.replace(SPACE, " "));
        out
    }

    /// The text of bytes that were waiting for the rest of their character: U+FFFD each. Empty otherwise.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.take_characters(true, &mut out);
        out
    }

    /// Moves whole characters from `pending` to `out`; a byte that cannot belong to one becomes U+FFFD. At the `end`
    /// an incomplete character's bytes do too.
    fn take_characters(&mut self, end: bool, out: &mut String) {
        while !self.pending.is_empty() {
            let (valid, incomplete) = match std::str::from_utf8(&self.pending) {
                Ok(text) => (text.len(), false),
                Err(e) => (e.valid_up_to(), e.error_len().is_none()),
            };
            out.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
            self.pending.drain(..valid);
            if self.pending.is_empty() || (incomplete && !end) {
                return;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.remove(0);
        }
    }
}
