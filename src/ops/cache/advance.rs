//! Moves the counters of a decode step to the next one, so that steps need nothing from the host.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, kernel, read, write};

static KERNEL: Kernel = kernel!("cache", "advance", Params, reference);

uniform! {
    struct Params {
        batch: u32,
        capacity: u32,
    }
}

/// Adds 1 to `past` (U32 `[1]`, keys in the cache) and to each of `positions` (U32 `[batch]`), and sets `slots` (U32
/// `[batch]`) to the cache rows of the next keys: `slots[b] = table[b, past]`, where `table` is U32 [batch, capacity]
/// and past, the new one, counts as `capacity - 1` at most. The tensors are distinct.
pub fn advance(r: &mut Recording, table: Tensor, past: Tensor, positions: Tensor, slots: Tensor) {
    let batch = table.rows();
    let all = [table, past, positions, slots];
    assert!(all.iter().all(|t| t.dtype == DType::U32), "advance: {all:?}");
    assert!(
        table.width() > 0 && past.len() == 1 && positions.len() == batch && slots.len() == batch,
        "advance: table {:?}, past {:?}, positions {:?}, slots {:?}",
        table.shape(),
        past.shape(),
        positions.shape(),
        slots.shape()
    );
    let params = Params { batch: batch as u32, capacity: table.width() as u32 };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(table), write(past), write(positions), write(slots)], params, [1, 1, 1]);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (table, mut past) = (call.u32(0), call.u32_mut(1));
    past[0] += 1;
    let at = past[0].min(p.capacity - 1) as usize;
    call.u32_mut(2).iter_mut().for_each(|position| *position += 1);
    let slots = &mut call.u32_mut(3);
    slots.iter_mut().zip(table.chunks(p.capacity as usize)).for_each(|(slot, row)| *slot = row[at]);
}

pub(crate) static OP: Op = Op { name: "advance", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(0, Fill::Words);
    t.fill(1, Fill::Value((t.param("capacity") / 2) as u32));
}

fn examples(e: &mut Examples) {
    let table = e.u32(&[5, 40], Fill::Counting);
    let past = e.u32(&[1], Fill::Value(20));
    let (positions, slots) = (e.u32(&[5], Fill::Value(20)), e.u32(&[5], Fill::Value(0)));
    advance(&mut e.recording, table, past, positions, slots);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    #[test]
    fn gpu_equals_reference() {
        for (batch, capacity) in [(1, 1), (5, 7), (131, 10)] {
            let outputs = play_both(4, |pool, r, random| {
                let entries: Vec<u32> = (0..batch * capacity).map(|_| random.next_u32()).collect();
                let table = pool.u32(&[batch, capacity], &entries).unwrap();
                let past = pool.u32(&[1], &[4]).unwrap();
                let starts: Vec<u32> = (0..batch).map(|_| random.below(1000)).collect();
                let positions = pool.u32(&[batch], &starts).unwrap();
                let slots = pool.u32(&[batch], &vec![9; batch]).unwrap();
                // Three steps: the last is past the end of the table of 7.
                for _ in 0..3 {
                    advance(r, table, past, positions, slots);
                }
                vec![past, positions, slots, table]
            });
            for (expected, found) in &outputs {
                assert_eq!(expected, found);
            }
            assert_eq!(outputs[0].1, [7]);
            for (b, slot) in outputs[2].1.iter().enumerate() {
                assert_eq!(*slot, outputs[3].1[b * capacity + 7.min(capacity - 1)]);
            }
        }
    }
}
