//! The choice of the next tokens, recorded behind the logits: greedy, drawn, or candidates for beam search.

use crate::device::Pool;
use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::error::Result;
use crate::generate::beams::candidates;
use crate::generate::options::Resolved;
use crate::ops::logits::argmax::argmax;
use crate::ops::logits::log_softmax::log_softmax;
use crate::ops::logits::penalize::{Penalties, penalize};
use crate::ops::logits::sample::sample;
use crate::ops::logits::top_k::top_k;

/// What the choice reads and writes.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    /// U32 [rows]: where the chosen ids go, but for beams.
    pub tokens: Tensor,
    /// U32 [rows, capacity]: ids that penalties see.
    pub history: Tensor,
    /// U32 [2] or [rows, 2]: ids in the history, and how many of them are not new.
    pub lengths: Tensor,
    /// U32 [n]
    pub eos: Tensor,
    /// U32 [1]: the counter of draws.
    pub draw: Tensor,
}

impl Choice {
    /// Records the choice of the next tokens. Returns what the host reads of it: U32 [rows], or F32 and U32 [rows,
    /// candidates], best first, kept in `pool`.
    ///
    /// # Errors
    /// The pool's.
    pub fn record(
        &self,
        r: &mut Recording,
        logits: Tensor,
        options: &Resolved,
        pool: &mut Pool,
    ) -> Result<Vec<Tensor>> {
        let scores = if options.num_beams > 1 { log_softmax(r, logits) } else { logits };
        if options.penalised() {
            let penalties = Penalties {
                repetition_penalty: options.repetition_penalty,
                no_repeat_ngram_size: options.no_repeat_ngram_size,
                min_new_tokens: options.min_new_tokens,
            };
            penalize(r, scores, self.history, self.lengths, self.eos, penalties);
        }
        if options.num_beams > 1 {
            let (values, ids) = top_k(r, scores, candidates(options.eos_token_ids.len(), options.num_beams));
            return Ok(vec![pool.keep(r, values)?, pool.keep(r, ids)?]);
        }
        match &options.sampling {
            Some(sampling) => sample(r, scores, self.draw, *sampling, self.tokens),
            None => argmax(r, scores, self.tokens),
        }
        Ok(vec![self.tokens])
    }
}
