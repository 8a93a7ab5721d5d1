//! `y[k] = scale * sum of some rows of x`: what gathering rows, repeating them, taking their mean and looking them up by
//! their ids send back.

use crate::device::Pool;
use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::uniform;
use crate::error::Result;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "sum_rows", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        add: u32,
        scale: f32,
    }
}

/// Which rows are added up.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// U32 [groups + 1]: where each group's rows begin in `members`.
    starts: Tensor,
    /// U32 `[any]`
    members: Tensor,
}

impl Groups {
    /// Each group's rows, in `pool`.
    ///
    /// # Errors
    /// Those of [`Pool::alloc`].
    pub fn new(pool: &mut Pool, groups: &[Vec<u32>]) -> Result<Groups> {
        let ends = groups.iter().scan(0, |end, group| {
            *end += group.len() as u32;
            Some(*end)
        });
        let starts: Vec<u32> = [0].into_iter().chain(ends).collect();
        let mut members = groups.concat();
        // Memory of no bytes cannot be bound.
        members.resize(members.len().max(1), 0);
        Ok(Groups { starts: pool.u32(&[starts.len()], &starts)?, members: pool.u32(&[members.len()], &members)? })
    }

    /// For `gather_rows(x, index)`, where `x` has `rows` rows: which rows of its result each row of `x` went to.
    pub fn of_gathered(pool: &mut Pool, rows: usize, index: &[u32]) -> Result<Groups> {
        let mut groups = vec![Vec::new(); rows];
        index.iter().enumerate().for_each(|(to, &from)| groups[from as usize].push(to as u32));
        Groups::new(pool, &groups)
    }

    /// The number of groups.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }
}

/// Returns [groups.count(), width] of `x` [_, width]. Whoever made `groups` kept its rows below those of `x`.
pub fn sum_rows(r: &mut Recording, x: Tensor, groups: Groups, scale: f32) -> Tensor {
    let y = r.scratch_f32(&[groups.count(), x.width()]);
    record(r, x, groups, scale, y, false);
    y
}

/// As [`sum_rows`], added to `y`.
pub fn add_sum_rows(r: &mut Recording, x: Tensor, groups: Groups, scale: f32, y: Tensor) {
    record(r, x, groups, scale, y, true);
}

fn record(r: &mut Recording, x: Tensor, groups: Groups, scale: f32, y: Tensor, add: bool) {
    assert_eq!((y.rows(), y.width()), (groups.count(), x.width()), "sum_rows: {x:?} to {y:?}");
    let params = Params { count: y.len() as u32, width: x.width() as u32, add: u32::from(add), scale };
    let operands = [write(y), read(x), read(groups.starts), read(groups.members)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(y.len().div_ceil(LANES as usize)));
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut y, x, starts, members) = (call.f32_mut(0), call.f32(1), call.u32(2), call.u32(3));
    let width = p.width as usize;
    for (y, ends) in y.chunks_mut(width).zip(starts.windows(2)) {
        let mut sums = vec![0.0f64; width];
        for &member in &members[ends[0] as usize..ends[1] as usize] {
            let row = &x[member as usize * width..][..width];
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for (y, sum) in y.iter_mut().zip(sums) {
            let before = if p.add == 1 { *y } else { 0.0 };
            *y = before + (f64::from(p.scale) * sum) as f32;
        }
    }
}

pub(crate) static OP: Op = Op { name: "sum_rows", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let x = e.f32(&[5, 300]);
    // Each group one row: its own.
    let groups = Groups {
        starts: e.input(DType::U32, &[6], Fill::Counting),
        members: e.input(DType::U32, &[5], Fill::Counting),
    };
    sum_rows(&mut e.recording, x, groups, 0.5);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (rows, width, groups) in [(1, 1, 1), (7, 61, 5), (30, 331, 40)] {
            compare(&format!("{rows} {width} {groups}"), 1e-12, |pool, r, random| {
                let x = pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                // Some groups are empty.
                let lists: Vec<Vec<u32>> =
                    (0..groups).map(|k| (0..k % 4).map(|_| random.below(rows as u32)).collect()).collect();
                let lists = Groups::new(pool, &lists).unwrap();
                let y = sum_rows(r, x, lists, 0.3);
                let more = pool.f32(&[groups, width], &random.f32s(groups * width)).unwrap();
                add_sum_rows(r, x, lists, -1.5, more);
                vec![keep(pool, r, y), more]
            });
        }
    }

    /// What `gather_rows` repeats comes back as a sum, what it leaves out as zeros.
    #[test]
    fn gathered_rows_come_back() {
        let device = crate::device::Device::cpu();
        let mut pool = device.pool();
        let groups = Groups::of_gathered(&mut pool, 4, &[2, 0, 2]).unwrap();
        let dy = pool.f32(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let mut r = Recording::new();
        let dx = sum_rows(&mut r, dy, groups, 1.0);
        let dx = pool.keep(&mut r, dx).unwrap();
        device.play(&r).unwrap();
        let dx = pollster::block_on(device.read_f32(dx)).unwrap();
        assert_eq!(dx, [3.0, 4.0, 0.0, 0.0, 6.0, 8.0, 0.0, 0.0]);
    }
}
