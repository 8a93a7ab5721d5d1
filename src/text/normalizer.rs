//! SentencePiece's normalisation: characters, then spaces.

use super::character_map::CharacterMap;
use super::prefixes::Prefixes;
use super::vocabulary::SPACE;

/// What a vocabulary's file says of normalisation.
pub(super) struct Normalizer {
    pub(super) characters: CharacterMap,
    /// Whether a space is put before every text.
    pub(super) add_dummy_prefix: bool,
    /// Whether spaces at both ends are dropped and runs of spaces become one.
    pub(super) remove_extra_whitespaces: bool,
}

impl Normalizer {
    /// `text` as pieces write it. `user_defined` pieces stay as they are, but for spaces.
    pub(super) fn apply(&self, text: &str, user_defined: &Prefixes) -> String {
        let mut rest = text;
        if self.remove_extra_whitespaces {
            while let (length, " ") = self.first(rest, user_defined) {
                rest = &rest[length..];
            }
        }
        let mut out = String::with_capacity(rest.len() + rest.len() / 2 + SPACE.len());
        if rest.is_empty() {
            return out;
        }
        if self.add_dummy_prefix {
            out.push_str(SPACE);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while !rest.is_empty() {
            let (length, mut part) = self.first(rest, user_defined);
            if after_space {
                part = part.trim_start_matches(' ');
            }
            for c in part.chars() {
                match c {
                    ' ' => out.push_str(SPACE),
                    c => out.push(c),
                }
            }
            if !part.is_empty() {
                after_space = self.remove_extra_whitespaces && part.ends_with(' ');
            }
            rest = &rest[length..];
        }
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(SPACE).len());
        }
        out
    }

    /// The length of the next part of a text and what it becomes: a user-defined piece, the longest part that the
    /// character map knows, or one character.
    fn first<'a>(&'a self, text: &'a str, user_defined: &Prefixes) -> (usize, &'a str) {
        if let Some((length, _)) = user_defined.longest(text.as_bytes()) {
            return (length, &text[..length]);
        }
        self.characters.longest(text).unwrap_or_else(|| {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (length, &text[..length])
        })
    }
}
