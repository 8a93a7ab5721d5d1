//! SentencePiece's normalisation of characters.

/// Bytes of a key and of a replacement at most, so that a malicious map cannot turn a text into one far longer, or
/// follow a circle of the trie through all of it at each of its characters. The longest known ones have 33.
const MAX_BYTES: usize = 256;

/// SentencePiece's `precompiled_charsmap`: a double-array trie (Darts) from a string to an offset into
/// NUL-terminated replacements. Empty maps nothing.
#[derive(Default)]
pub(super) struct CharacterMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharacterMap {
    /// The file's form: the trie's size in bytes (u32), the trie (u32 units), the replacements; all little-endian.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<CharacterMap> {
        if bytes.is_empty() {
            return Some(CharacterMap::default());
        }
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let (trie, replacements) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        let (units, odd) = trie.as_chunks::<4>();
        let whole = odd.is_empty() && std::str::from_utf8(replacements).is_ok() && !units.is_empty();
        let short = replacements.split(|&b| b == 0).all(|replacement| replacement.len() <= MAX_BYTES);
        (whole && short).then(|| CharacterMap {
            units: units.iter().map(|&u| u32::from_le_bytes(u)).collect(),
            replacements: replacements.to_vec(),
        })
    }

    /// The length of the longest key at the start of `text` and what replaces it. A broken trie finds nothing.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut found = None;
        let mut at = offset(*self.units.first()?);
        for (index, byte) in text.bytes().take(MAX_BYTES).enumerate() {
            at ^= byte as usize;
            let Some(&unit) = self.units.get(at) else { break };
            if unit & ((1 << 31) | 0xFF) != byte as u32 {
                break;
            }
            at ^= offset(unit);
            if unit & (1 << 8) != 0
                && text.is_char_boundary(index + 1)
                && let Some(&leaf) = self.units.get(at)
            {
                found = Some((index + 1, (leaf & !(1 << 31)) as usize));
            }
        }
        let (length, start) = found?;
        let tail = self.replacements.get(start..)?;
        let end = tail.iter().position(|&b| b == 0).unwrap_or(tail.len());
        Some((length, std::str::from_utf8(&tail[..end]).ok()?))
    }
}
