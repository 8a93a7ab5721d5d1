//! The longest of a set of texts that another text begins with.

use std::ops::Range;

/// Texts, each with an id.
#[derive(Default)]
pub(super) struct Prefixes {
    /// In the order of their bytes.
    sorted: Vec<(Box<str>, u32)>,
    /// The part of `sorted` that begins with each byte.
    by_first: Vec<Range<usize>>,
}

impl Prefixes {
    /// Empty texts are left out. Of equal texts the first stays.
    pub(super) fn new(texts: impl IntoIterator<Item = (String, u32)>) -> Prefixes {
        let texts = texts.into_iter().filter(|(text, _)| !text.is_empty());
        let mut sorted: Vec<(Box<str>, u32)> = texts.map(|(text, id)| (text.into(), id)).collect();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        sorted.dedup_by(|(a, _), (b, _)| a == b);
        let below = |byte: usize| sorted.partition_point(|(text, _)| usize::from(text.as_bytes()[0]) < byte);
        let by_first = if sorted.is_empty() { Vec::new() } else { (0..256).map(|b| below(b)..below(b + 1)).collect() };
        Prefixes { sorted, by_first }
    }

    /// The length in bytes and the id of the longest text that the bytes `text` begin with.
    pub(super) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut part = self.by_first.get(usize::from(*text.first()?))?.clone();
        let mut found = None;
        // All texts of the part begin with the first `length` bytes; one of just these bytes comes first.
        let mut length = 1;
        while let Some((first, id)) = self.sorted[part.clone()].first() {
            if first.len() == length {
                found = Some((length, *id));
                part.start += 1;
            }
            let Some(byte) = text.get(length) else { break };
            let texts = &self.sorted[part.clone()];
            let low = texts.partition_point(|(text, _)| text.as_bytes()[length] < *byte);
            let high = texts.partition_point(|(text, _)| text.as_bytes()[length] <= *byte);
            part = part.start + low..part.start + high;
            length += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_found() {
        let texts = ["ab", "a", "abcd", "b", "", "é", "ab"];
        let set = Prefixes::new(texts.iter().enumerate().map(|(id, text)| (text.to_string(), id as u32)));
        let longest = |text: &str| set.longest(text.as_bytes());
        assert_eq!(longest("a"), Some((1, 1)));
        assert_eq!(longest("aa"), Some((1, 1)));
        assert_eq!(longest("abc"), Some((2, 0)));
        assert_eq!(longest("abcde"), Some((4, 2)));
        assert_eq!(longest("ba"), Some((1, 3)));
        assert_eq!(longest("éa"), Some((2, 5)));
        assert_eq!(longest("è"), None);
        assert_eq!(longest("c"), None);
        assert_eq!(longest(""), None);
        assert_eq!(Prefixes::default().longest(b"a"), None);
    }
}
