//! SentencePiece's BPE with byte fallback. Ids are those of SentencePiece's `bpe_model.cc`, `normalizer.cc` and
//! `sentencepiece_processor.cc`, for every text.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use sentencepiece_model::{ModelType, SentencePieceModel};

use super::character_map::CharacterMap;
use super::merges::merge;
use super::normalizer::Normalizer;
use super::prefixes::Prefixes;
use super::vocabulary::{Kind, Piece, SentencePieceOptions};
use crate::error::printable;

/// Longest piece in bytes; what a look-up in the vocabulary costs at most.
const MAX_PIECE_BYTES: usize = 1024;

/// In the place of an id: a character that is no piece. No vocabulary is as large.
const UNKNOWN: u32 = u32::MAX;

/// In the place of an id: a user-defined piece.
const USER_DEFINED: u32 = u32::MAX - 1;

/// A piece as files have it: text, score, and the number of its type.
pub(super) type Listed = (String, f32, i32);

/// A vocabulary as the encoder uses it.
pub(super) struct SentencePiece {
    /// What text can become, by its text.
    pieces: HashMap<Box<str>, Known>,
    /// The bytes of the longest piece that pairs make.
    longest: usize,
    /// Found before all others, and never joined to their neighbours.
    user_defined: Prefixes,
    /// Characters that stand side by side in a piece that pairs make. Between others nothing is ever joined, so text is
    /// cut there first, which saves most of the time. `None` where pieces are unused: the order of joins in the whole
    /// text decides which two they become.
    neighbours: Option<HashSet<(char, char)>>,
    /// The piece of each byte; the unknown one where the vocabulary lacks it.
    bytes: Box<[u32; 256]>,
    normalizer: Normalizer,
    unk_id: u32,
    byte_fallback: bool,
}

/// A piece that text can become.
struct Known {
    id: u32,
    /// The order in which pairs become pieces; `None` for pieces that no pair makes.
    rank: Option<u32>,
    /// Pairs make it, but where it is left in the end it becomes two again.
    unused: bool,
}

/// Two neighbours that made an unused piece: their ids, and where the text of the first begins, of the second begins and
/// of the second ends.
type Halves = ([u32; 2], [usize; 3]);

/// Reads the bytes of a `tokenizer.model`.
///
/// # Errors
/// What is wrong.
pub(super) fn read(bytes: &[u8]) -> Result<(Vec<Listed>, SentencePieceOptions, CharacterMap), String> {
    let whole = "expected a whole SentencePiece model (tokenizer.model)";
    let model = SentencePieceModel::from_slice(bytes).map_err(|e| format!("{whole}: {e}"))?;
    let trainer = model.trainer().ok_or_else(|| format!("{whole}: the trainer's settings are missing"))?;
    let normalizer = model.normalizer().ok_or_else(|| format!("{whole}: the normaliser's settings are missing"))?;
    if trainer.model_type() != ModelType::Bpe {
        return Err(format!("expected a BPE model, found {:?}", trainer.model_type()));
    }
    if trainer.treat_whitespace_as_suffix() || !normalizer.escape_whitespaces() {
        return Err("expected spaces to be written as ▁ before a word".to_string());
    }
    let id = |what: &str, id: i32| u32::try_from(id).map_err(|_| format!("expected a piece for {what}, found id {id}"));
    let options = SentencePieceOptions {
        bos_id: id("the beginning of a sequence", trainer.bos_id())?,
        eos_id: id("the end of a sequence", trainer.eos_id())?,
        unk_id: id("unknown text", trainer.unk_id())?,
        add_dummy_prefix: normalizer.add_dummy_prefix(),
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces(),
        byte_fallback: trainer.byte_fallback(),
    };
    let characters = CharacterMap::from_bytes(normalizer.precompiled_charsmap())
        .ok_or_else(|| "the normaliser's character map is malformed".to_string())?;
    let listed = model.pieces().iter().map(|p| (p.piece().to_string(), p.score(), p.r#type.unwrap_or(1))).collect();
    Ok((listed, options, characters))
}

impl SentencePiece {
    /// The pieces of a vocabulary and their encoder.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn new(
        listed: Vec<Listed>,
        options: SentencePieceOptions,
        characters: CharacterMap,
    ) -> Result<(Vec<Piece>, SentencePiece), String> {
        for (what, id) in [("bos_id", options.bos_id), ("eos_id", options.eos_id), ("unk_id", options.unk_id)] {
            if id as usize >= listed.len() {
                return Err(format!("{what}: expected an id below {} (the pieces), found {id}", listed.len()));
            }
        }
        let mut pieces = Vec::with_capacity(listed.len());
        let mut known = HashMap::with_capacity(listed.len());
        let mut user_defined = Vec::new();
        let mut bytes = Box::new([options.unk_id; 256]);
        let mut longest = 0;
        for (index, (text, score, type_number)) in listed.into_iter().enumerate() {
            let id = index as u32;
            let fail = |reason: String| format!("piece {id} ({:?}): {reason}", printable(&text));
            if text.is_empty() || text.len() > MAX_PIECE_BYTES {
                return Err(fail(format!("expected 1 to {MAX_PIECE_BYTES} bytes, found {}", text.len())));
            }
            let kind = kind_of(&text, type_number).map_err(fail)?;
            let mut rank = None;
            match kind {
                Kind::Normal | Kind::Unused => {
                    if !score.is_finite() {
                        return Err(fail(format!("expected a finite score, found {score}")));
                    }
                    rank = Some(rank_of(score));
                    longest = longest.max(text.len());
                }
                Kind::UserDefined => user_defined.push((text.clone(), id)),
                Kind::Byte(byte) => bytes[usize::from(byte)] = id,
                Kind::Unknown | Kind::Control => {}
            }
            match known.entry(text.as_str().into()) {
                Entry::Occupied(first) => {
                    let Known { id: first, .. } = first.get();
                    return Err(fail(format!("the same piece as {first}")));
                }
                Entry::Vacant(place) => place.insert(Known { id, rank, unused: kind == Kind::Unused }),
            };
            pieces.push(Piece { text, kind });
        }
        if !pieces.iter().any(|piece| matches!(piece.kind, Kind::Normal | Kind::Byte(_))) {
            return Err("expected pieces of text, found none".to_string());
        }
        let from_text = |piece: &Piece| matches!(piece.kind, Kind::Normal | Kind::Unused | Kind::UserDefined);
        known.retain(|_, known| from_text(&pieces[known.id as usize]));
        let model = SentencePiece {
            pieces: known,
            longest,
            neighbours: neighbours(&pieces),
            user_defined: Prefixes::new(user_defined),
            bytes,
            normalizer: Normalizer {
                characters,
                add_dummy_prefix: options.add_dummy_prefix,
                remove_extra_whitespaces: options.remove_extra_whitespaces,
            },
            unk_id: options.unk_id,
            byte_fallback: options.byte_fallback,
        };
        Ok((pieces, model))
    }

    /// Appends the ids of a text without specials.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let text = &*self.normalizer.apply(text, &self.user_defined);
        let mut word = Word { text, ..Word::default() };
        let mut last = None;
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            let user_defined = self.user_defined.longest(&text.as_bytes()[at..]);
            let length = user_defined.map_or(c.len_utf8(), |(length, _)| length);
            let symbol = match self.pieces.get(&text[at..at + length]) {
                _ if user_defined.is_some() => USER_DEFINED,
                Some(known) => known.id,
                None => UNKNOWN,
            };
            let c = user_defined.is_none().then_some(c);
            if let Some(neighbours) = &self.neighbours
                && !last.zip(c).is_some_and(|pair| neighbours.contains(&pair))
            {
                self.encode_word(&mut word, ids);
            }
            last = c;
            word.symbols.push(symbol);
            word.starts.push(at);
            at += length;
            word.end = at;
        }
        self.encode_word(&mut word, ids);
    }

    /// Appends the ids of a word and empties it.
    fn encode_word(&self, word: &mut Word, ids: &mut Vec<u32>) {
        let Word { text, symbols, starts, end, after_unknown } = word;
        starts.push(*end);
        let mut halves: HashMap<u32, Halves> = HashMap::new();
        let ends = merge(symbols, |pair, place| {
            let place = place.map(|index| starts[index]);
            let [start, _, end] = place;
            if end - start > self.longest || pair.contains(&USER_DEFINED) {
                return None;
            }
            let known = self.pieces.get(&text[start..end])?;
            let rank = known.rank?;
            if known.unused {
                halves.insert(known.id, (pair, place));
            }
            Some((rank, known.id))
        });
        let mut parts = Vec::new();
        let mut first = 0;
        for (&id, end) in symbols.iter().zip(ends) {
            parts.push((id, starts[first]..starts[end]));
            first = end;
            while let Some((id, range)) = parts.pop() {
                if let Some(&([left, right], [start, middle, end])) = halves.get(&id) {
                    parts.extend([(right, middle..end), (left, start..middle)]);
                    continue;
                }
                match id {
                    USER_DEFINED => ids.extend(self.pieces.get(&text[range]).map(|known| known.id)),
                    UNKNOWN if self.byte_fallback => {
                        ids.extend(text[range].bytes().map(|byte| self.bytes[usize::from(byte)]));
                    }
                    // One for all unknown characters in a row.
                    UNKNOWN if *after_unknown => {}
                    UNKNOWN => ids.push(self.unk_id),
                    id => ids.push(id),
                }
                *after_unknown = id == UNKNOWN;
            }
        }
        symbols.clear();
        starts.clear();
    }
}

/// A part of a text that nothing is joined with.
#[derive(Default)]
struct Word<'a> {
    /// The whole text.
    text: &'a str,
    /// What the word begins as: characters and user-defined pieces.
    symbols: Vec<u32>,
    /// Where in the text each starts.
    starts: Vec<usize>,
    /// Where in the text the word ends.
    end: usize,
    /// Whether the word before ends with an unknown character.
    after_unknown: bool,
}

/// [`SentencePiece::neighbours`] of a vocabulary.
fn neighbours(pieces: &[Piece]) -> Option<HashSet<(char, char)>> {
    if pieces.iter().any(|piece| piece.kind == Kind::Unused) {
        return None;
    }
    let normal = pieces.iter().filter(|piece| piece.kind == Kind::Normal);
    Some(normal.flat_map(|piece| piece.text.chars().zip(piece.text.chars().skip(1))).collect())
}

/// What a piece is, by the number of its type.
fn kind_of(text: &str, type_number: i32) -> Result<Kind, String> {
    Ok(match type_number {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte(byte_of(text).ok_or_else(|| "expected a byte such as <0x0A>".to_string())?),
        other => return Err(format!("expected a type from 1 to 6, found {other}")),
    })
}

/// The byte that a piece such as `<0x0A>` stands for.
fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// A finite score as a rank: the higher the score, the lower the rank; equal scores (0 and -0, too) have equal ranks.
fn rank_of(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    // Ascending with the score, as unsigned numbers.
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `bb` and `bbbb` are unused, `日` and `本` no pieces.
    const PIECES: [(&str, f32, i32); 22] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("▁", -1.0, 1),
        ("a", -1.0, 1),
        ("b", -1.0, 1),
        ("aa", 0.0, 1),
        ("ab", 0.0, 1),
        ("ba", -0.0, 1),
        ("0", -1.0, 1),
        ("00", 0.0, 1),
        ("日本", -2.0, 1),
        ("<pic>", 0.0, 4),
        ("a<", 5.0, 1),
        ("<", -1.0, 1),
        ("bb", 3.0, 5),
        ("abb", 1.0, 1),
        ("bbbb", -3.0, 5),
        ("▁▁", -1.0, 1),
        ("c", -4.0, 1),
        ("bc", -5.0, 1),
        ("abc", -3.0, 1),
    ];

    /// Byte pieces, when wanted, follow [`PIECES`].
    fn model(add_dummy_prefix: bool, remove_extra_whitespaces: bool, byte_fallback: bool) -> SentencePiece {
        let pieces = PIECES.iter().map(|(text, score, kind)| (text.to_string(), *score, *kind));
        let bytes = (0..256).filter(|_| byte_fallback).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6));
        let options = SentencePieceOptions {
            bos_id: 1,
            eos_id: 2,
            unk_id: 0,
            add_dummy_prefix,
            remove_extra_whitespaces,
            byte_fallback,
        };
        SentencePiece::new(pieces.chain(bytes).collect(), options, CharacterMap::default()).unwrap().1
    }

    /// Expected ids are those of SentencePiece 0.2.1 with such a model.
    fn assert_ids(model: &SentencePiece, cases: &[(&str, &[u32])]) {
        for (text, expected) in cases {
            let mut ids = Vec::new();
            model.encode(text, &mut ids);
            assert_eq!(ids, *expected, "{text:?}");
        }
    }

    #[test]
    fn pieces_of_equal_scores_are_made_from_the_left() {
        let cases: [(&str, &[u32]); 7] = [
            ("aaa", &[6, 4]),
            ("aaaaa", &[6, 6, 4]),
            ("aba", &[7, 4]),
            ("bab", &[8, 5]),
            ("000", &[10, 9]),
            ("00000", &[10, 10, 9]),
            ("  a", &[18, 4]),
        ];
        assert_ids(&model(false, false, false), &cases);
    }

    #[test]
    fn unknown_user_defined_and_unused_pieces() {
        let cases: [(&str, &[u32]); 12] = [
            ("日本", &[11]),
            // One for all in a row.
            ("日xyz本", &[0]),
            ("xyz日本x", &[0, 11, 0]),
            ("a<pic>a", &[4, 12, 4]),
            ("<pic", &[14, 0, 19]),
            ("aa<pic><pic>", &[6, 12, 12]),
            ("bb", &[5, 5]),
            ("abb", &[16]),
            ("bbb", &[5, 5, 5]),
            ("bbbbbbbb", &[5; 8]),
            ("abbbbc", &[16, 5, 5, 19]),
            ("abc", &[21]),
        ];
        assert_ids(&model(false, false, false), &cases);
    }

    #[test]
    fn spaces_and_bytes() {
        let cases: [(&str, &[u32]); 9] = [
            ("", &[]),
            (" ", &[]),
            ("   ", &[]),
            ("  a  b  ", &[3, 4, 3, 5]),
            ("▁▁a▁ ▁", &[18, 3, 4]),
            ("▁", &[]),
            ("日", &[3, 252, 173, 187]),
            ("\0", &[3, 22]),
            ("é a", &[3, 217, 191, 3, 4]),
        ];
        assert_ids(&model(true, true, true), &cases);
        let cases: [(&str, &[u32]); 4] = [("", &[]), (" ", &[18]), ("  a ", &[18, 3, 4, 3]), ("\n", &[3, 32])];
        assert_ids(&model(true, false, true), &cases);
    }

    #[test]
    fn ranks_follow_scores() {
        let scores = [f32::MAX, 1.0, f32::MIN_POSITIVE, 0.0, -f32::MIN_POSITIVE, -1.0, -1e9, f32::MIN];
        assert!(scores.windows(2).all(|pair| rank_of(pair[0]) < rank_of(pair[1])));
        assert_eq!(rank_of(0.0), rank_of(-0.0));
        assert!(rank_of(f32::MIN) < u32::MAX);
    }
}
