//! Words of captions as the Penn Treebank's tokenizer splits them, lower case, without punctuation: what scores of captions
//! are counted on. Of Stanford's rules those that captions need; others leave a word as it is.

/// What is no word.
const PUNCTUATION: [char; 4] = ['.', ',', ':', '-'];
/// Brackets are words: lower case saves them from those who take punctuation out.
const BRACKETS: [(char, &str); 6] =
    [('(', "-lrb-"), (')', "-rrb-"), ('[', "-lsb-"), (']', "-rsb-"), ('{', "-lcb-"), ('}', "-rcb-")];
/// Words that end with a full stop of their own.
const ABBREVIATIONS: [&str; 24] = [
    "mr.", "mrs.", "ms.", "dr.", "st.", "jr.", "sr.", "vs.", "etc.", "inc.", "co.", "corp.", "ltd.", "no.", "ave.",
    "blvd.", "rd.", "mt.", "ft.", "prof.", "gen.", "sgt.", "capt.", "rev.",
];
/// Words that are two.
const TWO: [(&str, &str); 6] =
    [("can", "not"), ("gon", "na"), ("got", "ta"), ("wan", "na"), ("gim", "me"), ("lem", "me")];
/// What hangs on words behind an apostrophe.
const ENDINGS: [&str; 6] = ["'s", "'re", "'ve", "'ll", "'d", "'m"];

/// The words of a caption.
pub fn words(text: &str) -> Vec<String> {
    let mut text = text.to_lowercase().replace(['\u{2018}', '\u{2019}'], "'").replace(['\u{201c}', '\u{201d}'], "\"");
    for (bracket, word) in BRACKETS {
        text = text.replace(bracket, &format!(" {word} "));
    }
    let mut out = Vec::new();
    for chunk in text.split_whitespace() {
        split(chunk, &mut out);
    }
    out
}

fn split(chunk: &str, out: &mut Vec<String>) {
    if chunk == "'n'" || BRACKETS.iter().any(|(_, word)| *word == chunk) {
        return out.push(chunk.into());
    }
    // Between what is punctuation wherever it stands.
    let parts = chunk.split(['?', '!', ';', '"', '`']);
    for part in parts.flat_map(|part| part.split("...")).flat_map(|part| part.split("--")) {
        for piece in commas(part) {
            word(piece, out);
        }
    }
}

/// Commas and colons end a word, but within numbers.
fn commas(part: &str) -> Vec<&str> {
    let bytes = part.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let (mut pieces, mut start) = (Vec::new(), 0);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(byte, b',' | b':') && !(digit(at.checked_sub(1)) && digit(Some(at + 1))) {
            pieces.push(&part[start..at]);
            start = at + 1;
        }
    }
    pieces.push(&part[start..]);
    pieces
}

fn word(piece: &str, out: &mut Vec<String>) {
    let mut piece = piece.trim_start_matches(['.', '-', '\'']).trim_end_matches(['-', '\'']);
    let bare = piece.trim_end_matches('.');
    let initials = bare.len() < piece.len() && bare.contains('.') && bare.split('.').all(|part| part.len() == 1);
    if !(ABBREVIATIONS.contains(&piece) || initials) {
        piece = bare.trim_end_matches(['-', '\'']);
    }
    if piece.is_empty() || piece.chars().all(|c| PUNCTUATION.contains(&c)) {
        return;
    }
    if let Some(rest) = piece.strip_prefix(['$', '#', '&', '%', '*']).filter(|rest| !rest.is_empty()) {
        out.push(piece[..piece.len() - rest.len()].into());
        return word(rest, out);
    }
    if let Some(rest) = piece.strip_suffix('%').filter(|rest| !rest.is_empty()) {
        word(rest, out);
        return out.push("%".into());
    }
    if let Some(rest) = piece.strip_suffix("n't").filter(|rest| !rest.is_empty()) {
        out.push(rest.into());
        return out.push("n't".into());
    }
    if let Some((ending, rest)) = ENDINGS.iter().find_map(|e| Some((*e, piece.strip_suffix(e)?)))
        && !rest.is_empty()
    {
        word(rest, out);
        return out.push(ending.into());
    }
    if let Some((first, second)) = TWO.iter().find(|(first, second)| piece.strip_prefix(first) == Some(second)) {
        out.push((*first).into());
        return out.push((*second).into());
    }
    out.push(piece.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/data/captions/expected.json` has what Stanford's tokenizer makes of captions, by pycocoevalcap.
    #[test]
    fn captions_are_split_as_stanfords_tokenizer_does() {
        let expected: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/captions/expected.json")).unwrap();
        for pair in expected["words"].as_array().unwrap() {
            let text = pair[0].as_str().unwrap();
            assert_eq!(words(text).join(" "), pair[1].as_str().unwrap(), "{text:?}");
        }
    }
}
