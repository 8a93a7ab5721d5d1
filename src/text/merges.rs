//! The merge loop of BPE, which SentencePiece's and byte-level vocabularies share.

/// Joins neighbours in `symbols` until none make a piece. Returns the end of each symbol that is left, as an index into
/// the symbols that were.
///
/// `join` is given two neighbours, and where in `symbols` as they were the left one begins, the right one begins and the
/// right one ends; it tells the rank, below `u32::MAX`, and the piece that they make, if any. Of all pairs the one with
/// the lowest rank is joined first, of pairs with equal ranks the leftmost. Calls: one for each pair of neighbours, then
/// at most two for each that is joined, so that n symbols take O(n log n).
pub(super) fn merge(
    symbols: &mut Vec<u32>,
    mut join: impl FnMut([u32; 2], [usize; 3]) -> Option<(u32, u32)>,
) -> Vec<usize> {
    let count = symbols.len();
    if count < 2 {
        return (1..=count).collect();
    }
    let mut nodes: Vec<Node> = (symbols.iter().enumerate())
        .map(|(i, &id)| Node { id, joined: id, end: i + 1, previous: i.saturating_sub(1) })
        .collect();
    // The rank of a pair, which is kept under where its left one begins; its piece is kept there, too.
    let mut rank = |nodes: &mut [Node], left: usize| {
        let Node { id, end: right, .. } = nodes[left];
        let Some(&Node { id: right_id, end, .. }) = nodes.get(right) else { return NO_RANK };
        let Some((rank, joined)) = join([id, right_id], [left, right, end]) else { return NO_RANK };
        nodes[left].joined = joined;
        rank
    };
    let mut ranks = Ranks::new((0..count).map(|left| rank(&mut nodes, left)).collect());
    while let Some(left) = ranks.lowest() {
        let Node { joined, end: right, previous, .. } = nodes[left];
        let end = nodes[right].end;
        (nodes[left].id, nodes[left].end) = (joined, end);
        if let Some(next) = nodes.get_mut(end) {
            next.previous = left;
        }
        ranks.set(right, NO_RANK);
        if previous < left {
            ranks.set(previous, rank(&mut nodes, previous));
        }
        ranks.set(left, rank(&mut nodes, left));
    }
    symbols.clear();
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(node) = nodes.get(at) {
        symbols.push(node.id);
        ends.push(node.end);
        at = node.end;
    }
    ends
}

/// A symbol in a list that is linked by index: its end is where the next one begins.
struct Node {
    id: u32,
    /// The piece that it and the next one make, where they have a rank.
    joined: u32,
    end: usize,
    /// Where the one before begins; 0 for the first.
    previous: usize,
}

/// No pair.
const NO_RANK: u32 = u32::MAX;

/// Ranks of which the lowest is looked for again and again while single ones change: a tree, whose nodes are the minima
/// of [`WIDTH`] below. Unlike a heap it holds nothing outdated, and what lies together in the text lies together here.
struct Ranks {
    /// The ranks, the minima of each `WIDTH` of them, and so on, up to at most `WIDTH`. All are filled up with `NO_RANK`.
    levels: Vec<Vec<[u32; WIDTH]>>,
}

const WIDTH: usize = 16;

impl Ranks {
    fn new(ranks: Vec<u32>) -> Ranks {
        let mut levels = vec![blocks(ranks.into_iter())];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            levels.push(blocks(below.iter().map(minimum)));
        }
        Ranks { levels }
    }

    /// Where the first of the lowest ranks is, `None` where there is none.
    fn lowest(&self) -> Option<usize> {
        let lowest = minimum(self.levels.last()?.first()?);
        if lowest == NO_RANK {
            return None;
        }
        let step = |at: usize, level: &Vec<[u32; WIDTH]>| {
            let inside = level[at].iter().position(|&rank| rank == lowest);
            at * WIDTH + inside.expect("a minimum is one of those below")
        };
        Some(self.levels.iter().rev().fold(0, step))
    }

    fn set(&mut self, mut at: usize, mut rank: u32) {
        for level in &mut self.levels {
            let block = &mut level[at / WIDTH];
            let old = std::mem::replace(&mut block[at % WIDTH], rank);
            if old == rank {
                return;
            }
            (at, rank) = (at / WIDTH, minimum(block));
        }
    }
}

/// `ranks` in blocks, the last one filled up.
fn blocks(ranks: impl Iterator<Item = u32>) -> Vec<[u32; WIDTH]> {
    let mut blocks = Vec::with_capacity(ranks.size_hint().0.div_ceil(WIDTH));
    for (i, rank) in ranks.enumerate() {
        if i % WIDTH == 0 {
            blocks.push([NO_RANK; WIDTH]);
        }
        blocks[i / WIDTH][i % WIDTH] = rank;
    }
    blocks
}

fn minimum(block: &[u32; WIDTH]) -> u32 {
    block.iter().copied().fold(NO_RANK, u32::min)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Pieces of text with their ranks.
    type Table = HashMap<Vec<u8>, u32>;

    /// The ends of what `text`'s bytes become, by the merge loop.
    fn ends(text: &[u8], table: &Table) -> Vec<usize> {
        let mut symbols: Vec<u32> = text.iter().map(|&byte| byte.into()).collect();
        let ends = merge(&mut symbols, |pair, [start, middle, end]| {
            assert_eq!(pair, [id(&text[start..middle]), id(&text[middle..end])]);
            Some((*table.get(&text[start..end])?, id(&text[start..end])))
        });
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let pieces: Vec<u32> = starts.zip(&ends).map(|(start, end)| id(&text[start..*end])).collect();
        assert_eq!(symbols, pieces);
        ends
    }

    /// A number that tells pieces apart well enough.
    fn id(piece: &[u8]) -> u32 {
        match piece {
            [byte] => u32::from(*byte),
            _ => piece.iter().fold(piece.len() as u32, |id, &byte| id.wrapping_mul(31).wrapping_add(byte.into())),
        }
    }

    /// The same, by looking through all pairs each time.
    fn slow_ends(text: &[u8], table: &Table) -> Vec<usize> {
        let mut ends: Vec<usize> = (1..=text.len()).collect();
        loop {
            let start = |i: usize| if i == 0 { 0 } else { ends[i - 1] };
            let rank = |i: usize| table.get(&text[start(i)..ends[i + 1]]);
            let pairs = 0..ends.len().saturating_sub(1);
            // The first of several that are lowest.
            let Some(lowest) = pairs.filter(|&i| rank(i).is_some()).min_by_key(|&i| rank(i)) else { return ends };
            ends.remove(lowest);
        }
    }

    fn table(pieces: &[(&str, u32)]) -> Table {
        pieces.iter().map(|(piece, rank)| (piece.as_bytes().to_vec(), *rank)).collect()
    }

    #[test]
    fn of_equal_ranks_the_leftmost_is_joined() {
        let equal = table(&[("aa", 7), ("ab", 7), ("ba", 7)]);
        assert_eq!(ends(b"aaa", &equal), [2, 3]);
        assert_eq!(ends(b"aaaaa", &equal), [2, 4, 5]);
        assert_eq!(ends(b"aba", &equal), [2, 3]);
        assert_eq!(ends(b"bab", &equal), [2, 3]);
        // A new pair on the left of an old one of the same rank comes first, one with a lower rank before both.
        assert_eq!(ends(b"xabab", &table(&[("ab", 5), ("xab", 5), ("abab", 4)])), [3, 5]);
        assert_eq!(ends(b"xababx", &table(&[("ab", 5), ("abab", 6), ("abx", 6)])), [1, 5, 6]);
        assert_eq!(ends(b"abcab", &table(&[("bc", 1), ("ab", 2), ("abc", 0)])), [3, 5]);
        assert_eq!(ends(b"", &equal), [0; 0]);
        assert_eq!(ends(b"a", &equal), [1]);
    }

    #[test]
    fn all_orders_agree_with_the_plain_way() {
        let mut state = 1u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        let mut joins = 0;
        for round in 0..400 {
            let letters = 1 + random(4);
            let letter = |random: &mut dyn FnMut(usize) -> usize| b'a' + random(letters) as u8;
            let ranks = 1 + random(6);
            let table: Table = (0..random(60))
                .map(|_| {
                    let length = 2 + random(5);
                    ((0..length).map(|_| letter(&mut random)).collect(), random(ranks) as u32)
                })
                .collect();
            // Up to three levels of minima.
            let length = random(if round % 20 == 0 { 600 } else { 40 });
            let text: Vec<u8> = (0..length).map(|_| letter(&mut random)).collect();
            let found = ends(&text, &table);
            assert_eq!(found, slow_ends(&text, &table), "{text:?} {table:?}");
            joins += length - found.len();
        }
        assert!(joins > 1000, "{joins}");
    }

    #[test]
    fn the_steps_grow_with_the_length() {
        // "a" doubles again and again: all ranks are equal, and each round of joins makes new pairs.
        for length in [1_000, 300_000] {
            let mut calls = 0;
            let mut symbols = vec![1; length];
            let ends = merge(&mut symbols, |[left, right], _| {
                calls += 1;
                (left == right && left < 64).then_some((0, left + right))
            });
            assert!(ends.len() < length / 30, "{}", ends.len());
            assert!(calls <= 3 * length, "{calls}");
        }
    }
}
