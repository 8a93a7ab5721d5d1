//! The beams' cache follows the chosen beams: each row of an index table takes its parent's columns.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, kernel, read, write};

static KERNEL: Kernel = kernel!("cache", "reorder", Params, reference);

/// The most rows of a group: 16 KiB of workgroup memory hold this many for each lane.
pub const MAX_BEAMS: usize = 64;

uniform! {
    struct Params {
        beams: u32,
        capacity: u32,
        first: u32,
    }
}

/// `table[row, c] = old table[parents[row], c]` for `first_column <= c < past`, in place; other columns stay.
///
/// `table` U32 [rows, capacity]; `parents` U32 `[rows]`, absolute rows, each within the row's own group of `beams`
/// (1 to [`MAX_BEAMS`]) rows that follow each other; `past` U32 `[1]`, read when the op runs.
pub fn reorder(r: &mut Recording, table: Tensor, parents: Tensor, past: Tensor, first_column: usize, beams: usize) {
    let (rows, capacity) = (table.rows(), table.width());
    assert!((1..=MAX_BEAMS).contains(&beams) && rows % beams == 0, "reorder: {beams} beams of {:?}", table.shape());
    assert_eq!(parents.len(), rows, "reorder: parents {:?}, table {:?}", parents.shape(), table.shape());
    assert!(past.len() == 1, "reorder: past {:?}", past.shape());
    for tensor in [table, parents, past] {
        assert_eq!(tensor.dtype, DType::U32, "reorder: {tensor:?}");
    }
    if first_column >= capacity {
        return;
    }
    let params = Params { beams: beams as u32, capacity: capacity as u32, first: first_column as u32 };
    let constants = [("LANES", LANES as f64), ("WORDS", (beams * LANES as usize) as f64)];
    let workgroups = [((capacity - first_column) as u32).div_ceil(LANES), (rows / beams) as u32, 1];
    r.dispatch(&KERNEL, &constants, &[read(parents), read(past), write(table)], params, workgroups);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (parents, past, mut table) = (call.u32(0), call.u32(1), call.u32_mut(2));
    let (beams, capacity, first) = (p.beams as usize, p.capacity as usize, p.first as usize);
    let end = (past[0] as usize).min(capacity);
    if first >= end {
        return;
    }
    for (group, table) in table.chunks_mut(beams * capacity).enumerate() {
        let old = table.to_vec();
        for beam in 0..beams {
            let parent = parents[group * beams + beam].wrapping_sub((group * beams) as u32).min(p.beams - 1) as usize;
            table[beam * capacity + first..beam * capacity + end]
                .copy_from_slice(&old[parent * capacity + first..parent * capacity + end]);
        }
    }
}

pub(crate) static OP: Op = Op { name: "reorder", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(0, Fill::Below(t.tensor(2).rows() as u32));
    t.fill(1, Fill::Value(t.param("capacity") as u32 - 1));
}

fn examples(e: &mut Examples) {
    for beams in [5, MAX_BEAMS] {
        let (table, parents) = (e.u32(&[beams, 331], Fill::Counting), e.u32(&[beams], Fill::Below(beams as u32)));
        let past = e.u32(&[1], Fill::Value(300));
        reorder(&mut e.recording, table, parents, past, 97, beams);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    #[test]
    fn gpu_equals_reference() {
        for (groups, beams, capacity, first, past) in [
            (1, 1, 1, 0, 1),
            (1, 5, 331, 97, 173),
            (3, 7, 130, 0, 130),
            (2, 64, 67, 1, 66),
            (2, 3, 20, 9, 9),
            (2, 3, 20, 9, 4),
            (1, 3, 20, 20, 20),
        ] {
            let case = format!("{groups} {beams} {capacity} {first} {past}");
            let rows = groups * beams;
            let outputs = play_both(11, |pool, r, random| {
                let words: Vec<u32> = (0..rows * capacity).map(|_| random.next_u32()).collect();
                let table = pool.u32(&[rows, capacity], &words).unwrap();
                let parents: Vec<u32> =
                    (0..rows).map(|row| (row / beams * beams) as u32 + random.below(beams as u32)).collect();
                let parents = pool.u32(&[rows], &parents).unwrap();
                let past = pool.u32(&[1], &[past]).unwrap();
                reorder(r, table, parents, past, first, beams);
                vec![table]
            });
            assert_eq!(outputs[0].0, outputs[0].1, "{case}");
        }
    }

    #[test]
    fn a_cycle() {
        let outputs = play_both(1, |pool, r, _| {
            let table = pool.u32(&[3, 3], &[0, 1, 2, 10, 11, 12, 20, 21, 22]).unwrap();
            let parents = pool.u32(&[3], &[2, 0, 1]).unwrap();
            let past = pool.u32(&[1], &[2]).unwrap();
            reorder(r, table, parents, past, 1, 3);
            vec![table]
        });
        for found in [&outputs[0].0, &outputs[0].1] {
            assert_eq!(found[..], [0, 21, 2, 10, 1, 12, 20, 11, 22]);
        }
    }
}
