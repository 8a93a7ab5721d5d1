//! Joins the tokens of a step to the ids that penalties see, so that steps need nothing from the host.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, kernel, picked_rows, read, write};

static KERNEL: Kernel = kernel!("logits", "remember", Params, reference, picked_rows);

uniform! {
    struct Params {
        rows: u32,
        capacity: u32,
    }
}

/// Writes `tokens` (U32 `[rows]`) behind the `lengths[0]` ids that each row of `history` (U32 [rows, capacity]) holds, and
/// adds 1 to `lengths[0]`. Behind the capacity nothing is written.
pub fn remember(r: &mut Recording, tokens: Tensor, history: Tensor, lengths: Tensor) {
    let all = [tokens, history, lengths];
    assert!(all.iter().all(|t| t.dtype == DType::U32), "remember: {all:?}");
    assert!(
        history.rows() == tokens.len() && lengths.len() == 2,
        "remember: tokens {:?}, history {:?}, lengths {:?}",
        tokens.shape(),
        history.shape(),
        lengths.shape()
    );
    let params = Params { rows: tokens.len() as u32, capacity: history.width() as u32 };
    let operands = [read(tokens), write(history), write(lengths)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, [1, 1, 1]);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (tokens, mut history, mut lengths) = (call.u32(0), call.u32_mut(1), call.u32_mut(2));
    let length = lengths[0] as usize;
    lengths[0] += 1;
    if length < p.capacity as usize {
        let rows = history.chunks_mut(p.capacity as usize);
        rows.zip(&tokens[..]).for_each(|(row, token)| row[length] = *token);
    }
}

pub(crate) static OP: Op = Op { name: "remember", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(0, Fill::Words);
    t.fill(2, Fill::Value((t.param("capacity") / 2) as u32));
}

fn examples(e: &mut Examples) {
    let (tokens, history) = (e.u32(&[5], Fill::Below(1000)), e.u32(&[5, 40], Fill::Below(1000)));
    let lengths = e.u32(&[2], Fill::Value(7));
    remember(&mut e.recording, tokens, history, lengths);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    #[test]
    fn gpu_equals_reference() {
        for (rows, capacity) in [(1, 3), (5, 7), (131, 4)] {
            let outputs = play_both(4, |pool, r, random| {
                let mut numbers = |count: usize| (0..count).map(|_| random.below(1000)).collect::<Vec<_>>();
                let history = pool.u32(&[rows, capacity], &numbers(rows * capacity)).unwrap();
                let lengths = pool.u32(&[2], &[2, 1]).unwrap();
                // Three steps: where there is room for one, two are past it.
                for _ in 0..3 {
                    let tokens = pool.u32(&[rows], &numbers(rows)).unwrap();
                    remember(r, tokens, history, lengths);
                }
                vec![history, lengths]
            });
            for (expected, found) in &outputs {
                assert_eq!(expected, found);
            }
            assert_eq!(outputs[1].1, [5, 1]);
        }
    }
}
