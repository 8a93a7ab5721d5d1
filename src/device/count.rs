//! What playing a recording would take, without playing it: dispatches, submissions, bytes and multiply-adds.

use crate::device::cut::{Cutter, Uncut};
use crate::device::recording::Recording;
use crate::device::work::Work;

/// What a recording takes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    pub dispatches: usize,
    pub submissions: usize,
    pub work: Work,
    /// The cost of the costliest submission, in multiply-adds.
    pub longest: u64,
}

impl Count {
    /// Of a recording that goes to the device in submissions of at most `limit` multiply-adds, by the way that the GPU's
    /// executor cuts them.
    pub fn of(recording: &Recording, limit: u64) -> Count {
        let uncut: Vec<Uncut> = recording.dispatches.iter().map(Uncut::of).collect();
        let mut count = Count { dispatches: uncut.len(), ..Default::default() };
        recording.dispatches.iter().for_each(|dispatch| count.work += dispatch.work());
        let mut cutter = Cutter::new(&uncut);
        while !cutter.is_done() {
            count.longest = count.longest.max(cutter.submission(limit).cost);
            count.submissions += 1;
        }
        count
    }
}
