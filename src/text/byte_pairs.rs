//! Byte-level BPE (GPT-2's), as GGUF files hold it: text is cut into words by a rule, and the bytes of each word are
//! joined pair by pair, the pair that was learnt first before all others, the left one of two alike.

use std::collections::HashMap;
use std::ops::Range;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::merges::merge;
use crate::error::printable;

/// No piece.
const NONE: u32 = u32::MAX;

/// Pairs and the pieces that they make.
pub(super) struct BytePairs {
    split: Split,
    /// The piece of each byte.
    bytes: Box<[u32; 256]>,
    /// Rank and result of a pair.
    pairs: HashMap<(u32, u32), (u32, u32)>,
    /// Pieces by their bytes, for rules under which a word that is a piece is taken as it is.
    whole: HashMap<Vec<u8>, u32>,
}

/// How text is cut into words. Source: the regular expressions of llama.cpp (`llama-vocab.cpp`), followed here by hand,
/// in time linear in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Split {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Each digit apart, then as `Gpt2`.
    Digits,
    /// Runs of punctuation apart, then as `Gpt2`, then runs of digits, then three ASCII digits at a time.
    Default,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3,
}

impl BytePairs {
    /// `pieces` are texts in GPT-2's alphabet of bytes; `merges` are two of them with a space between, first learnt
    /// first. `split` is `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn new(pieces: &[String], merges: &[String], split: &str) -> Result<BytePairs, String> {
        let split = match split {
            "gpt-2" | "gpt2" | "olmo" | "jais" => Split::Gpt2,
            "smollm" | "starcoder" | "refact" | "codeshell" | "command-r" | "exaone" | "minerva-7b" => Split::Digits,
            "default" => Split::Default,
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" => Split::Llama3,
            other => {
                return Err(format!("the rule {:?} for cutting text into words is not supported", printable(other)));
            }
        };
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(pieces.len());
        for (id, piece) in pieces.iter().enumerate() {
            ids.entry(piece).or_insert(id as u32);
        }
        let mut bytes = Box::new([NONE; 256]);
        for byte in 0..=255u8 {
            let mut text = [0; 4];
            let piece: &str = char_of(byte).encode_utf8(&mut text);
            bytes[usize::from(byte)] = ids.get(piece).copied().unwrap_or(NONE);
        }
        if bytes.iter().all(|id| *id == NONE) {
            return Err("expected a piece for each byte, found none".into());
        }
        let mut pairs = HashMap::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let wrong = |what: &str| format!("pair {rank} ({:?}): {what}", printable(merge));
            let (left, right) = merge.split_once(' ').ok_or_else(|| wrong("expected two pieces"))?;
            let id = |piece: &str| ids.get(piece).copied().ok_or_else(|| wrong("not made of pieces of the vocabulary"));
            pairs.entry((id(left)?, id(right)?)).or_insert((rank as u32, id(&format!("{left}{right}"))?));
        }
        let mut whole = HashMap::new();
        if split == Split::Llama3 {
            whole = ids.iter().map(|(piece, id)| (bytes_of(piece), *id)).collect();
        }
        Ok(BytePairs { split, bytes, pairs, whole })
    }

    /// Appends the ids of a text without specials. A byte that the vocabulary lacks gives nothing.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        for word in words(text, self.split) {
            let word = text[word].as_bytes();
            match self.whole.get(word) {
                Some(id) => ids.push(*id),
                None => self.encode_word(word, ids),
            }
        }
    }

    fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let mut pieces: Vec<u32> = word.iter().map(|&b| self.bytes[usize::from(b)]).collect();
        merge(&mut pieces, |[left, right], _| self.pairs.get(&(left, right)).copied());
        ids.extend(pieces.into_iter().filter(|id| *id != NONE));
    }
}

/// GPT-2's character for a byte: itself where it can be seen, the 256th and following for the others in turn.
fn char_of(byte: u8) -> char {
    match byte {
        0..=32 => char::from_u32(256 + u32::from(byte)),
        127..=160 => char::from_u32(256 + u32::from(byte) - 127 + 33),
        173 => char::from_u32(256 + 67),
        _ => Some(char::from(byte)),
    }
    .expect("a character below 512")
}

/// The byte that a character of GPT-2's alphabet stands for.
fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        n @ (33..=126 | 161..=172 | 174..=255) => Some(n as u8),
        n @ 256..=288 => Some((n - 256) as u8),
        n @ 289..=322 => Some((n - 289 + 127) as u8),
        323 => Some(173),
        _ => None,
    }
}

/// The bytes that a piece stands for; a piece outside the alphabet stands for itself.
pub(super) fn bytes_of(piece: &str) -> Vec<u8> {
    piece.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| piece.as_bytes().to_vec())
}

/// What the rules tell characters apart by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Space,
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii_alphabetic() {
        return Class::Letter;
    }
    match c.general_category_group() {
        _ if c.is_whitespace() => Class::Space,
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Digit,
        _ => Class::Other,
    }
}

/// The words of a text, in order; together they are the text.
fn words(text: &str, split: Split) -> Vec<Range<usize>> {
    let whole = 0..text.len();
    match split {
        Split::Gpt2 => scan(text, whole, gpt2),
        Split::Digits => {
            let single = |c: char| class(c) == Class::Digit;
            runs(text, whole, single, 1).into_iter().flat_map(|part| scan(text, part, gpt2)).collect()
        }
        Split::Default => {
            let mark =
                |c: char| c.general_category_group() == GeneralCategoryGroup::Punctuation || "$+<=>^~|".contains(c);
            let digit = |c: char| class(c) == Class::Digit;
            let parts = runs(text, whole, mark, usize::MAX);
            let parts = parts.into_iter().flat_map(|part| scan(text, part, gpt2));
            let parts = parts.flat_map(|part| runs(text, part, digit, usize::MAX));
            parts.flat_map(|part| triples(text, part)).collect()
        }
        Split::Llama3 => scan(text, whole, llama3),
    }
}

/// Cuts a part by a rule that tells how many characters the next word has.
fn scan(text: &str, part: Range<usize>, rule: fn(&[char]) -> usize) -> Vec<Range<usize>> {
    let chars: Vec<char> = text[part.clone()].chars().collect();
    let mut rest = &chars[..];
    let mut start = part.start;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rule(rest));
        let end = start + word.iter().map(|c| c.len_utf8()).sum::<usize>();
        out.push(start..end);
        (rest, start) = (after, end);
    }
    out
}

/// Cuts a part into runs of characters that are `of` a kind, at most `most` of them, and what is between.
fn runs(text: &str, part: Range<usize>, of: impl Fn(char) -> bool, most: usize) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut last = (false, 0);
    for (at, c) in text[part.clone()].char_indices() {
        let (at, is) = (part.start + at, of(c));
        let end = at + c.len_utf8();
        match out.last_mut() {
            Some(range) if is == last.0 && !(is && last.1 >= most) => {
                range.end = end;
                last.1 += 1;
            }
            _ => {
                out.push(at..end);
                last = (is, 1);
            }
        }
    }
    out
}

/// `[0-9][0-9][0-9]`: each three ASCII digits in a row apart, and what is between.
fn triples(text: &str, part: Range<usize>) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut start, mut at) = (part.start, part.start);
    while at + 3 <= part.end {
        if !text.as_bytes()[at..at + 3].iter().all(u8::is_ascii_digit) {
            at += 1;
            continue;
        }
        if start < at {
            out.push(start..at);
        }
        out.push(at..at + 3);
        at += 3;
        start = at;
    }
    if start < part.end {
        out.push(start..part.end);
    }
    out
}

fn count_while(chars: &[char], of: impl Fn(char) -> bool) -> usize {
    chars.iter().position(|&c| !of(c)).unwrap_or(chars.len())
}

/// `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d`: characters of one that stands at the start, 0 where none does.
fn contraction(chars: &[char], any_case: bool) -> usize {
    if chars[0] != '\'' {
        return 0;
    }
    let at = |i: usize| chars.get(i).map(|c| if any_case { c.to_ascii_lowercase() } else { *c });
    match (at(1), at(2)) {
        (Some('s' | 't' | 'm' | 'd'), _) => 2,
        (Some('r'), Some('e')) | (Some('v'), Some('e')) | (Some('l'), Some('l')) => 3,
        _ => 0,
    }
}

/// `\s+(?!\S)|\s+` at a space: a run of spaces gives its last one to the word behind it.
fn spaces(chars: &[char]) -> usize {
    let run = count_while(chars, |c| class(c) == Class::Space);
    if run == chars.len() || run == 1 { run } else { run - 1 }
}

fn gpt2(chars: &[char]) -> usize {
    let short = contraction(chars, false);
    if short > 0 {
        return short;
    }
    let lead = usize::from(chars[0] == ' ' && chars.len() > 1);
    match class(chars[lead]) {
        Class::Space => spaces(chars),
        kind => lead + count_while(&chars[lead..], |c| class(c) == kind),
    }
}

fn llama3(chars: &[char]) -> usize {
    let short = contraction(chars, true);
    if short > 0 {
        return short;
    }
    let first = chars[0];
    let letters = |from: usize| count_while(&chars[from..], |c| class(c) == Class::Letter);
    match class(first) {
        Class::Letter => return letters(0),
        Class::Digit => return count_while(&chars[..chars.len().min(3)], |c| class(c) == Class::Digit),
        _ if !matches!(first, '\r' | '\n') && letters(1) > 0 => return 1 + letters(1),
        _ => {}
    }
    let lead = usize::from(first == ' ');
    let others = count_while(&chars[lead..], |c| class(c) == Class::Other);
    if others > 0 {
        let end = lead + others;
        return end + count_while(&chars[end..], |c| matches!(c, '\r' | '\n'));
    }
    let run = count_while(chars, |c| class(c) == Class::Space);
    match chars[..run].iter().rposition(|c| matches!(c, '\r' | '\n')) {
        Some(last) => last + 1,
        None => spaces(chars),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, split: Split) -> Vec<&str> {
        let words = words(text, split);
        assert_eq!(words.iter().map(|w| &text[w.clone()]).collect::<String>(), text);
        words.into_iter().map(|w| &text[w]).collect()
    }

    #[test]
    fn the_alphabet_is_gpt2s() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(b'a'), char_of(0xad)), ('Ġ', 'Ċ', 'a', 'Ń'));
        assert_eq!(bytes_of("Ġdog"), b" dog");
        assert_eq!(bytes_of("日"), "日".as_bytes());
    }

    #[test]
    fn words_of_each_rule() {
        let text = "It's  12345 dogs'LL\n\n  go! <=>café\u{301}² ";
        let gpt2 =
            ["It", "'s", " ", " 12345", " dogs", "'", "LL", "\n\n ", " go", "!", " <=>", "café", "\u{301}", "²", " "];
        assert_eq!(cut(text, Split::Gpt2), gpt2);
        let digits = [
            "It", "'s", "  ", "1", "2", "3", "4", "5", " dogs", "'", "LL", "\n\n ", " go", "!", " <=>", "café",
            "\u{301}", "²", " ",
        ];
        assert_eq!(cut(text, Split::Digits), digits);
        let default = [
            "It", "'", "s", " ", " ", "123", "45", " dogs", "'", "LL", "\n\n ", " go", "!", " ", "<=>", "café",
            "\u{301}", "²", " ",
        ];
        assert_eq!(cut(text, Split::Default), default);
        let llama3 = [
            "It", "'s", " ", " ", "123", "45", " dogs", "'LL", "\n\n", " ", " go", "!", " <=>", "café", "\u{301}", "²",
            " ",
        ];
        assert_eq!(cut(text, Split::Llama3), llama3);
        for split in [Split::Gpt2, Split::Digits, Split::Default, Split::Llama3] {
            assert!(cut("", split).is_empty());
            cut(&" \u{3000}\r\n'".repeat(50), split);
        }
    }

    #[test]
    fn pairs_are_joined_in_the_order_they_were_learnt() {
        let pieces: Vec<String> = ["a", "b", "c", "ab", "bc", "abc", "aa", "Ġ", "Ġa"].map(String::from).to_vec();
        let merges: Vec<String> = ["b c", "a b", "a bc", "a a", "Ġ a"].map(String::from).to_vec();
        let pairs = BytePairs::new(&pieces, &merges, "gpt-2").unwrap();
        let encode = |text: &str| {
            let mut ids = Vec::new();
            pairs.encode(text, &mut ids);
            ids
        };
        // "b c" comes before "a b"; "ab c" is no pair.
        assert_eq!(encode("abc"), [5]);
        assert_eq!(encode("abab"), [3, 3]);
        // The left of two pairs alike; a byte without a piece is left out.
        assert_eq!(encode("aaa"), [6, 0]);
        assert_eq!(encode("a?b a"), [0, 1, 8]);
        assert_eq!(encode(&"a".repeat(100_001)).len(), 50_001);
        for (merges, split) in [(vec!["a".to_string()], "gpt-2"), (vec!["a z".into()], "gpt-2"), (vec![], "qwen9")] {
            assert!(BytePairs::new(&pieces, &merges, split).is_err());
        }
        assert!(BytePairs::new(&["zz".to_string()], &[], "gpt-2").is_err());
    }
}
