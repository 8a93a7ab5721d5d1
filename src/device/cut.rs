//! Cuts the dispatches of a recording into submissions of bounded cost, and long dispatches into parts of their grids.

use crate::device::recording::Dispatch;

/// What cutting needs to know of a dispatch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uncut {
    pub(crate) workgroups: [u32; 3],
    /// As `Work::cost` has it.
    pub(crate) cost: u64,
    /// Whether its kernel takes the first workgroup of a part.
    pub(crate) divides: bool,
}

impl Uncut {
    pub(crate) fn of(dispatch: &Dispatch) -> Uncut {
        Uncut { workgroups: dispatch.workgroups, cost: dispatch.work().cost(), divides: dispatch.kernel.divides() }
    }
}

/// A part of a dispatch: `size` workgroups from `first` on, in x and y.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) dispatch: usize,
    pub(crate) first: [u32; 2],
    pub(crate) size: [u32; 2],
}

/// What goes to the device at once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Submission {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) cost: u64,
}

/// Dispatches a submission: lets encoding overlap with work, however cheap they are.
pub(crate) const MOST_DISPATCHES: usize = 512;

/// A part may begin at any workgroup below this number, and behind it at multiples of [`COARSE`]: there are
/// [`STARTS`] numbers in all that a device keeps at hand.
const FINE: u32 = 4096;
const COARSE: u32 = 16;
pub(crate) const STARTS: u32 = FINE + (65536 - FINE) / COARSE;

/// Workgroup at which a part begins -> its number among all such.
pub(crate) fn number_of_start(start: u32) -> u32 {
    if start < FINE { start } else { FINE + (start - FINE) / COARSE }
}

/// The other way round.
pub(crate) fn start_of_number(number: u32) -> u32 {
    if number < FINE { number } else { FINE + (number - FINE) * COARSE }
}

/// Goes through the dispatches of a recording, a submission at a time.
pub(crate) struct Cutter<'a> {
    dispatches: &'a [Uncut],
    /// The dispatch that is next, and the workgroup in y, and in x where a single row of them is cut, that is.
    next: usize,
    row: u32,
    column: u32,
}

impl<'a> Cutter<'a> {
    pub(crate) fn new(dispatches: &'a [Uncut]) -> Cutter<'a> {
        Cutter { dispatches, next: 0, row: 0, column: 0 }
    }

    /// Whether everything was submitted.
    pub(crate) fn is_done(&self) -> bool {
        self.next == self.dispatches.len()
    }

    /// The next submission: at most `limit`, but for a single workgroup, or dispatch that cannot be divided, which costs
    /// more than that.
    pub(crate) fn submission(&mut self, limit: u64) -> Submission {
        let mut submission = Submission::default();
        while !self.is_done() && submission.pieces.len() < MOST_DISPATCHES {
            let left = limit.saturating_sub(submission.cost);
            let Some((piece, cost)) = self.piece(left, submission.pieces.is_empty()) else { break };
            submission.pieces.push(piece);
            submission.cost += cost;
        }
        submission
    }

    /// As much of the next dispatch as costs at most `left`; where it `must` be, one workgroup at least.
    fn piece(&mut self, left: u64, must: bool) -> Option<(Piece, u64)> {
        let Uncut { workgroups: [columns, rows, _], cost, divides } = self.dispatches[self.next];
        let all = u128::from(columns) * u128::from(rows);
        let cost_of = |[x, y]: [u32; 2]| (u128::from(cost) * u128::from(x) * u128::from(y)).div_ceil(all) as u64;
        let fitting = |one: u64| u32::try_from(left / one.max(1)).unwrap_or(u32::MAX);
        let rest = if self.column > 0 { [columns - self.column, 1] } else { [columns, rows - self.row] };
        let size = if cost_of(rest) <= left || must && !divides {
            rest
        } else if !divides {
            return None;
        } else {
            // Whole rows of workgroups; where one is too much, a part of it in a submission of its own, if the next row can
            // begin a part.
            let whole = if self.column > 0 { 0 } else { longest(self.row, rest[1], fitting(cost_of([columns, 1]))) };
            if whole > 0 {
                [columns, whole]
            } else if must && self.column == 0 && shortest(self.row, rest[1]) > 1 {
                [columns, shortest(self.row, rest[1])]
            } else if must {
                [longest(self.column, rest[0], fitting(cost_of([1, 1]))).max(shortest(self.column, rest[0])), 1]
            } else {
                return None;
            }
        };
        let piece = Piece { dispatch: self.next, first: [self.column, self.row], size };
        self.pass(size, [columns, rows]);
        Some((piece, cost_of(size)))
    }

    /// Goes on behind a piece of a grid.
    fn pass(&mut self, size: [u32; 2], [columns, rows]: [u32; 2]) {
        self.column += size[0];
        if self.column == columns {
            self.column = 0;
            self.row += size[1];
        }
        if self.row == rows {
            self.row = 0;
            self.next += 1;
        }
    }
}

/// The most of `rest` workgroups from `first` on, at most `most`, behind which another part may begin.
fn longest(first: u32, rest: u32, most: u32) -> u32 {
    if most >= rest {
        return rest;
    }
    let end = first + most;
    let end = if end < FINE { end } else { end / COARSE * COARSE };
    end.saturating_sub(first)
}

/// The fewest, but not none.
fn shortest(first: u32, rest: u32) -> u32 {
    let end = first + 1;
    let end = if end < FINE { end } else { end.next_multiple_of(COARSE) };
    rest.min(end - first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dispatches: &[Uncut], limit: u64) -> Vec<Submission> {
        let mut cutter = Cutter::new(dispatches);
        let mut found = Vec::new();
        while !cutter.is_done() {
            found.push(cutter.submission(limit));
        }
        found
    }

    fn uncut(columns: u32, rows: u32, cost: u64, divides: bool) -> Uncut {
        Uncut { workgroups: [columns, rows, 1], cost, divides }
    }

    #[test]
    fn starts_have_numbers() {
        for number in 0..STARTS {
            assert_eq!(number_of_start(start_of_number(number)), number);
        }
        assert!(start_of_number(STARTS - 1) > 65535 - COARSE && start_of_number(STARTS - 1) <= 65535);
    }

    /// Every workgroup runs once, in order, and parts begin where they can; no submission is above the limit, but for
    /// what cannot be divided further.
    #[test]
    fn pieces_cover_every_grid_once_within_the_limit() {
        let grids = [(1, 1), (7, 1), (3, 65), (65535, 1), (40000, 3), (5, 65535), (1, 3000), (2000, 2000)];
        for (columns, rows) in grids {
            for limit in [1, 10, 999, 12_345, 1_000_000] {
                let cost = 1_000_000;
                let dispatches = [uncut(1, 1, 5, false), uncut(columns, rows, cost, true), uncut(4, 4, 5, true)];
                let found = all(&dispatches, limit);
                let mut at = 0u64;
                for submission in &found {
                    assert!(submission.pieces.len() <= MOST_DISPATCHES);
                    for piece in submission.pieces.iter().filter(|p| p.dispatch == 1) {
                        let ([x, y], [wide, high]) = (piece.first, piece.size);
                        assert_eq!(u64::from(y) * u64::from(columns) + u64::from(x), at, "{columns} {rows} {limit}");
                        assert!(high == 1 || wide == columns);
                        [x, y].iter().for_each(|&n| assert_eq!(start_of_number(number_of_start(n)), n));
                        at += u64::from(wide) * u64::from(high);
                    }
                    let least = if rows > FINE { COARSE * columns } else { COARSE.min(columns) };
                    let least = (cost * u64::from(least)).div_ceil(u64::from(columns) * u64::from(rows));
                    let most = limit.max(least).max(5);
                    assert!(submission.cost <= most, "{columns} {rows}: {} above {limit}", submission.cost);
                }
                assert_eq!(at, u64::from(columns) * u64::from(rows));
            }
        }
    }

    #[test]
    fn what_fits_goes_together() {
        let cheap = vec![uncut(9, 9, 10, true); 1000];
        let lengths: Vec<_> = all(&cheap, u64::MAX).iter().map(|s| s.pieces.len()).collect();
        assert_eq!(lengths, [512, 488]);
        let lengths: Vec<_> = all(&cheap, 100).iter().map(|s| s.pieces.len()).collect();
        assert_eq!(lengths, [10; 100]);
        // What cannot be divided goes whole, and alone where it is too long.
        let found = all(&[uncut(9, 9, 10, true), uncut(9, 9, 500, false), uncut(9, 9, 10, true)], 100);
        assert_eq!(found.iter().map(|s| s.cost).collect::<Vec<_>>(), [10, 500, 10]);
    }
}
