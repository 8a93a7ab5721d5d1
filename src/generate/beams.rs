//! Beam search of one picture, as Hugging Face's transformers 4.37 keeps its books (`BeamSearchScorer`,
//! `BeamHypotheses` and the loop of `beam_search`). Pure host code: candidates in, parents and tokens out.

use std::cmp::Ordering;

/// When a search with enough finished hypotheses stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyStopping {
    /// When the worst kept hypothesis is at least the best candidate's sum / current length^length_penalty.
    False,
    /// At `num_beams` finished hypotheses.
    True,
    /// As `False`, with `max_new_tokens` for the current length where the length penalty is positive.
    Never,
}

/// Candidates that a step of beam search needs: `max(2, 1 + end ids) * beams`.
pub fn candidates(end_ids: usize, beams: usize) -> usize {
    (1 + end_ids).max(2) * beams
}

/// What a search is to do.
#[derive(Clone, PartialEq, Debug)]
pub struct BeamOptions {
    pub num_beams: usize,
    /// Hypotheses that [`BeamSearch::finish`] returns, at most `num_beams`.
    pub num_return_sequences: usize,
    /// A hypothesis scores its sum of log-probabilities / length^length_penalty, the end id counted, the BOS not.
    pub length_penalty: f32,
    pub early_stopping: EarlyStopping,
    /// Steps; the end id counts.
    pub max_new_tokens: usize,
    /// May be empty: then only the limit ends the search.
    pub eos_token_ids: Vec<u32>,
}

impl BeamOptions {
    /// Candidates that a step looks at over all beams, and so the number that it needs of each beam.
    pub fn candidates(&self) -> usize {
        candidates(self.eos_token_ids.len(), self.num_beams)
    }
}

/// The beams that a step chose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// For each beam the beam that it continues, in 0..num_beams.
    pub parents: Vec<usize>,
    /// For each beam the id that it gained.
    pub tokens: Vec<u32>,
    /// The search needs no more steps: its rule ended it, or `max_new_tokens` did.
    pub done: bool,
}

/// One result.
#[derive(Clone, PartialEq, Debug)]
pub struct Hypothesis {
    /// The generated ids without the BOS. A finished one ends with the first of `eos_token_ids`, whichever of them
    /// ended it, as in Hugging Face's code.
    pub ids: Vec<u32>,
    /// Sum of log-probabilities / length^length_penalty.
    pub score: f32,
}

/// The state of one picture's search. `PAD` follows in its beams once it is done.
#[derive(Clone, Debug)]
pub struct BeamSearch {
    options: BeamOptions,
    ids: Vec<Vec<u32>>,
    scores: Vec<f32>,
    /// (score, ids) of finished hypotheses, at most `num_beams`, in the order of their arrival.
    finished: Vec<(f64, Vec<u32>)>,
    worst: f64,
    steps: usize,
    ended: bool,
}

/// The id that the beams of a finished search gain while other pictures go on.
pub const PAD: u32 = 0;

impl BeamSearch {
    /// All beams stand at the prompt; only beam 0 can win the first step.
    ///
    /// # Panics
    /// Without beams or steps, or when more sequences than beams are to be returned.
    pub fn new(options: BeamOptions) -> BeamSearch {
        let beams = options.num_beams;
        assert!(beams > 0 && options.max_new_tokens > 0, "{options:?}");
        assert!((1..=beams).contains(&options.num_return_sequences), "{options:?}");
        let mut scores = vec![-1e9; beams];
        scores[0] = 0.0;
        BeamSearch {
            ids: vec![Vec::new(); beams],
            scores,
            finished: Vec::new(),
            worst: 1e9,
            steps: 0,
            ended: false,
            options,
        }
    }

    /// Whether the search needs no more steps.
    pub fn done(&self) -> bool {
        self.ended || self.steps >= self.options.max_new_tokens
    }

    /// The ids that an open beam has generated, as many as there were steps.
    pub fn ids(&self, beam: usize) -> &[u32] {
        &self.ids[beam]
    }

    /// One step. `candidates[beam]`: (log-probability after the processors, id), best first and the lower id first
    /// among equals, [`BeamOptions::candidates`] of them or the whole vocabulary; entries with id `u32::MAX` are
    /// padding. Equal sums prefer the lower beam and then the lower id. A search that is done gains padding.
    ///
    /// # Panics
    /// When there is not one list a beam, or the candidates hold fewer than `num_beams` ids that are no end ids (a
    /// vocabulary of end ids).
    pub fn step(&mut self, candidates: &[Vec<(f32, u32)>]) -> Chosen {
        let beams = self.options.num_beams;
        if self.done() {
            self.ids.iter_mut().for_each(|ids| ids.push(PAD));
            return Chosen { parents: (0..beams).collect(), tokens: vec![PAD; beams], done: true };
        }
        assert_eq!(candidates.len(), beams, "one list of candidates a beam");
        let mut all: Vec<(f32, usize, u32)> = Vec::with_capacity(candidates.iter().map(Vec::len).sum());
        for (beam, list) in candidates.iter().enumerate() {
            let sums = list.iter().filter(|(_, id)| *id != u32::MAX);
            all.extend(sums.map(|&(value, id)| ((value + self.scores[beam]).max(f32::MIN), beam, id)));
        }
        all.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then((a.1, a.2).cmp(&(b.1, b.2))));
        all.truncate(self.options.candidates());
        self.steps += 1;

        let mut next = Vec::with_capacity(beams);
        for (rank, &(sum, beam, id)) in all.iter().enumerate() {
            if !self.options.eos_token_ids.contains(&id) {
                next.push((sum, beam, id));
            } else if rank < beams {
                let mut ids = self.ids[beam].clone();
                ids.push(self.options.eos_token_ids[0]);
                self.add(ids, sum);
            }
            if next.len() == beams {
                break;
            }
        }
        assert_eq!(next.len(), beams, "too few candidates that are no end ids");
        self.ids = next.iter().map(|&(_, beam, id)| [&self.ids[beam][..], &[id]].concat()).collect();
        self.scores = next.iter().map(|n| n.0).collect();
        self.ended = self.is_done(f64::from(all[0].0));
        Chosen {
            parents: next.iter().map(|n| n.1).collect(),
            tokens: next.iter().map(|n| n.2).collect(),
            done: self.done(),
        }
    }

    /// The best hypotheses, the best first; of equal ones the last to finish first. Beams that are still open (the
    /// limit was reached, or the caller stops early) join first.
    pub fn finish(mut self) -> Vec<Hypothesis> {
        if !self.ended {
            for beam in 0..self.options.num_beams {
                self.add(self.ids[beam].clone(), self.scores[beam]);
            }
        }
        self.finished.sort_by(|a, b| a.0.total_cmp(&b.0));
        let best = self.finished.into_iter().rev().take(self.options.num_return_sequences);
        best.map(|(score, ids)| Hypothesis { ids, score: score as f32 }).collect()
    }

    /// Keeps the hypothesis if it is among the `num_beams` best.
    fn add(&mut self, ids: Vec<u32>, sum: f32) {
        let score = f64::from(sum) / self.divisor(ids.len());
        if self.finished.len() >= self.options.num_beams && score <= self.worst {
            return;
        }
        self.finished.push((score, ids));
        if self.finished.len() > self.options.num_beams {
            let least = (0..self.finished.len()).min_by(|&a, &b| self.finished[a].0.total_cmp(&self.finished[b].0));
            self.finished.remove(least.expect("there are hypotheses"));
            self.worst = self.finished.iter().map(|f| f.0).fold(f64::INFINITY, f64::min);
        } else {
            self.worst = self.worst.min(score);
        }
    }

    fn is_done(&self, best_sum: f64) -> bool {
        if self.finished.len() < self.options.num_beams {
            return false;
        }
        let length = match self.options.early_stopping {
            EarlyStopping::True => return true,
            EarlyStopping::Never if self.options.length_penalty > 0.0 => self.options.max_new_tokens,
            EarlyStopping::False | EarlyStopping::Never => self.steps,
        };
        self.worst >= best_sum / self.divisor(length)
    }

    fn divisor(&self, length: usize) -> f64 {
        (length.max(1) as f64).powf(f64::from(self.options.length_penalty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: u32 = 9;

    fn options(early_stopping: EarlyStopping) -> BeamOptions {
        BeamOptions {
            num_beams: 2,
            num_return_sequences: 2,
            length_penalty: 1.0,
            early_stopping,
            max_new_tokens: 4,
            eos_token_ids: vec![EOS],
        }
    }

    /// The same candidates for both beams.
    fn both(list: &[(f32, u32)]) -> Vec<Vec<(f32, u32)>> {
        vec![list.to_vec(); 2]
    }

    fn step(parents: [usize; 2], tokens: [u32; 2], done: bool) -> Chosen {
        Chosen { parents: parents.to_vec(), tokens: tokens.to_vec(), done }
    }

    #[test]
    fn the_first_step_comes_from_beam_0() {
        let mut search = BeamSearch::new(options(EarlyStopping::False));
        assert_eq!(search.step(&both(&[(-0.5, 3), (-1.0, 4), (-2.0, 5), (-3.0, 6)])), step([0, 0], [3, 4], false));
        assert_eq!((search.ids(0), search.ids(1), search.scores[1]), (&[3][..], &[4][..], -1.0));
        // -0.5-0.75, -1-0.25 = -1.25 twice: the lower beam first.
        let found = search.step(&[
            vec![(-0.75, 7), (-2.0, 1), (-2.0, 2), (-2.0, 3)],
            vec![(-0.25, 1), (-2.0, 2), (-2.0, 3), (-2.0, 4)],
        ]);
        assert_eq!(found, step([0, 1], [7, 1], false));
        let found =
            search.step(&[vec![(-2.0, 1), (-2.0, 2), (-2.0, 3), (-2.0, 4)], vec![(-1.0, 5), (-1.0, 6), (-1.5, 7)]]);
        assert_eq!(found, step([1, 1], [5, 6], false));
        // The limit: open beams join, the best first.
        let found = search.step(&both(&[(-1.0, 1), (-1.5, 2), (-2.0, 3), (-2.5, 4)]));
        assert_eq!(found, step([0, 1], [1, 1], true));
        let results = search.finish();
        // Of equal sums the last one to join comes first, as sorted().pop() gives it.
        assert_eq!(results[0], Hypothesis { ids: vec![4, 1, 6, 1], score: -3.25 / 4.0 });
        assert_eq!(results[1], Hypothesis { ids: vec![4, 1, 5, 1], score: -3.25 / 4.0 });
    }

    #[test]
    fn an_end_id_at_rank_beams_is_dropped() {
        let mut search = BeamSearch::new(options(EarlyStopping::True));
        // Rank 2 of 2 beams: dropped. It does not even get there, as the beams are full.
        search.step(&both(&[(-0.5, 3), (-1.0, 4), (-1.1, EOS), (-3.0, 6)]));
        assert!(search.finished.is_empty());
        // Ranks 0 and 1: -1.5 from beam 0 (kept) and -2.0 from beam 1 (kept); both lengths are 2.
        let found = search.step(&both(&[(-1.0, EOS), (-2.0, 4), (-2.1, 5), (-3.0, 6)]));
        assert_eq!(found, step([0, 0], [4, 5], true));
        let results = search.finish();
        assert_eq!(results[0], Hypothesis { ids: vec![3, EOS], score: -0.75 });
        assert_eq!(results[1], Hypothesis { ids: vec![4, EOS], score: -1.0 });

        let mut search = BeamSearch::new(options(EarlyStopping::True));
        search.step(&both(&[(-0.5, 3), (-0.75, 4), (-2.0, 5), (-3.0, 6)]));
        // Sums: -1.5 (3,EOS) rank 0, -1.75 (4,EOS) rank 1, -2.5 (3,4), -2.6 (3,5).
        search.step(&both(&[(-1.0, EOS), (-2.0, 4), (-2.1, 5), (-3.0, 6)]));
        assert_eq!(search.finished.len(), 2);

        // Rank 2 is seen when an end id before it left a beam open, and is dropped.
        let mut search = BeamSearch::new(options(EarlyStopping::True));
        search.step(&both(&[(-0.5, 3), (-0.75, 4), (-2.0, 5), (-3.0, 6)]));
        let found = search.step(&[
            vec![(-0.5, EOS), (-0.6, 5), (-2.0, 6), (-3.0, 7)],
            vec![(-0.7, EOS), (-0.8, 8), (-2.0, 6), (-3.0, 7)],
        ]);
        assert_eq!(found, step([0, 1], [5, 8], false));
        assert_eq!(search.finished, [(-0.5, vec![3, EOS])]);
    }

    /// Steps until two hypotheses of length 2 are finished, scores -0.75 and -1.0; the best sum is then -1.5.
    fn two_finished(options: BeamOptions) -> (BeamSearch, Chosen) {
        let mut search = BeamSearch::new(options);
        search.step(&both(&[(-0.5, 3), (-1.0, 4), (-1.1, 5), (-3.0, 6)]));
        let found = search.step(&both(&[(-1.0, EOS), (-1.25, 4), (-1.5, 5), (-3.0, 6)]));
        (search, found)
    }

    #[test]
    fn early_stopping_false() {
        // Ranks: (3,EOS) -1.5, (3,4) -1.75, (3,5) -2.0, (4,EOS) -2.0 later in order: beam 1. One finished.
        let (mut search, found) = two_finished(options(EarlyStopping::False));
        assert_eq!(found, step([0, 0], [4, 5], false));
        assert_eq!(search.finished, [(-0.75, vec![3, EOS])]);
        // Beam scores -1.75, -2.0. EOS at -0.25: sums -2.0 (rank 0), -2.25 (rank 1); lengths 3.
        // Kept -0.75, -2/3; then -0.75 again: equal to the worst, not kept. Best attainable -2/3 > worst -0.75: go on.
        let found = search.step(&both(&[(-0.25, EOS), (-0.75, 1), (-1.0, 2), (-2.0, 3)]));
        assert_eq!(found, step([0, 0], [1, 2], false));
        assert_eq!(search.finished, [(-0.75, vec![3, EOS]), (f64::from(-2.0f32) / 3.0, vec![3, 4, EOS])]);
        // Beam scores -2.5, -2.75; best sum -2.5-1.0 = -3.5, /4 = -0.875 <= worst: done by the rule, at the limit.
        let found = search.step(&both(&[(-1.0, 1), (-1.5, 2), (-2.0, 3), (-2.5, 4)]));
        assert!(found.done && search.ended);
        let results = search.finish();
        assert_eq!(results[0].ids, [3, 4, EOS]);
        assert_eq!(results[1], Hypothesis { ids: vec![3, EOS], score: -0.75 });
    }

    #[test]
    fn the_rules_differ() {
        // After two steps: finished -1.5/2 and -2.0/2 (worst -1.0), the best sum -1.5.
        let lists = [vec![(-1.0, EOS), (-2.0, 4), (-2.1, 5), (-3.0, 6)], vec![(-1.0, EOS), (-2.0, 4), (-2.1, 5)]];
        for (early_stopping, max_new_tokens, length_penalty, done) in [
            (EarlyStopping::True, 4, 1.0, true),
            // worst -1.0 >= -1.5 / 2 does not hold.
            (EarlyStopping::False, 4, 1.0, false),
            // -1.5 / 4: hopes for even more.
            (EarlyStopping::Never, 4, 1.0, false),
            // Sums alone: worst -2.0 >= -1.5 does not hold.
            (EarlyStopping::Never, 4, 0.0, false),
        ] {
            let options = BeamOptions { length_penalty, max_new_tokens, ..options(early_stopping) };
            let mut search = BeamSearch::new(options);
            search.step(&both(&[(-0.5, 3), (-1.0, 4), (-1.1, 5), (-3.0, 6)]));
            let found = search.step(&lists);
            assert_eq!(search.finished.len(), 2);
            assert_eq!((found.done, search.ended), (done, done), "{early_stopping:?}");
            if done {
                continue;
            }
            // Third step: the best sum is -2.5 - 0.7 = -3.2. By the current length -3.2 / 3 = -1.07 <= -1.0: done.
            // By the limit of 4, -3.2 / 4 = -0.8: not. Sums alone: -3.2 <= -2.0: done.
            let found = search.step(&both(&[(-0.7, 1), (-2.0, 2), (-2.1, 3), (-3.0, 4)]));
            let expected = early_stopping == EarlyStopping::False || length_penalty == 0.0;
            assert_eq!((found.done, search.ended), (expected, expected), "{early_stopping:?} {length_penalty}");
        }
    }

    #[test]
    fn a_negative_penalty_uses_the_current_length() {
        for early_stopping in [EarlyStopping::False, EarlyStopping::Never] {
            let mut search = BeamSearch::new(BeamOptions { length_penalty: -1.0, ..options(early_stopping) });
            search.step(&both(&[(-0.5, 3), (-1.0, 4), (-1.1, 5), (-3.0, 6)]));
            // Scores are sums times the length: -3 and -4; the best sum -1.5 * 2 = -3: not done.
            let found = search.step(&both(&[(-1.0, EOS), (-2.0, 4), (-2.1, 5), (-3.0, 6)]));
            assert!(!found.done);
            // -2.5 - 0.1 = -2.6, times 3 = -7.8 <= -4: done.
            assert!(search.step(&both(&[(-0.1, 1), (-2.0, 2), (-2.1, 3), (-3.0, 4)])).done);
        }
    }

    #[test]
    fn better_hypotheses_push_worse_ones_out() {
        let mut search = BeamSearch::new(options(EarlyStopping::Never));
        search.add(vec![1, EOS], -4.0);
        search.add(vec![2, EOS], -6.0);
        assert_eq!(search.worst, -3.0);
        search.add(vec![3, EOS], -6.0);
        assert_eq!(search.finished, [(-2.0, vec![1, EOS]), (-3.0, vec![2, EOS])]);
        search.add(vec![4, EOS], -2.0);
        assert_eq!(search.finished, [(-2.0, vec![1, EOS]), (-1.0, vec![4, EOS])]);
        assert_eq!(search.worst, -2.0);
    }

    #[test]
    fn padding_follows_the_end() {
        let mut search = BeamSearch::new(options(EarlyStopping::True));
        search.step(&both(&[(-0.5, 3), (-1.0, 4), (-1.1, 5), (-3.0, 6)]));
        assert!(search.step(&both(&[(-1.0, EOS), (-2.0, 4), (-2.1, 5), (-3.0, 6)])).done);
        assert_eq!(search.step(&[]), step([0, 1], [PAD, PAD], true));
        assert_eq!(search.ids(0), [3, 4, PAD]);
        assert_eq!(search.finish()[0].ids, [3, EOS]);
    }

    #[test]
    fn several_end_ids_and_small_vocabularies() {
        let options = BeamOptions { eos_token_ids: vec![EOS, 8, 7], ..options(EarlyStopping::True) };
        assert_eq!(options.candidates(), 8);
        let mut search = BeamSearch::new(options);
        // The whole vocabulary, with the padding that top_k gives.
        let list = [(-0.1, 8), (-0.2, 7), (-0.3, EOS), (-0.4, 5), (-0.5, 6), (f32::MIN, 4), (f32::MIN, u32::MAX)];
        assert_eq!(search.step(&both(&list)), step([0, 0], [5, 6], true));
        let results = search.finish();
        assert_eq!((&results[0].ids[..], &results[1].ids[..]), (&[EOS][..], &[EOS][..]));
        assert_eq!((results[0].score, results[1].score), (-0.1, -0.2));
    }

    #[test]
    fn no_end_id() {
        let options = BeamOptions { eos_token_ids: vec![], num_return_sequences: 1, ..options(EarlyStopping::True) };
        assert_eq!(options.candidates(), 4);
        let mut search = BeamSearch::new(options);
        for i in 0..4 {
            let found = search.step(&both(&[(-0.5, 9), (-1.0, 4), (-1.5, 5), (-3.0, 6)]));
            assert_eq!(found.done, i == 3);
        }
        assert_eq!(search.finish(), [Hypothesis { ids: vec![9; 4], score: -0.5 }]);
    }
}
