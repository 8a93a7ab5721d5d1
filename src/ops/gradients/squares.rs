//! The sum of the squares of a tensor's elements, in parts: of all gradients together it is their norm, squared.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "squares", Params, reference);

/// The most parts of a tensor's sum.
const MAX_PARTS: usize = 64;

uniform! {
    struct Params {
        count: u32,
        first: u32,
        parts: u32,
    }
}

/// The parts that the sum of `count` squares comes in.
pub fn parts(count: usize) -> usize {
    count.div_ceil(16 * LANES as usize).clamp(1, MAX_PARTS)
}

/// Writes the [`parts`] of the sum of `x`'s squares to `sums` `[any]`, from `first` on.
pub fn squares(r: &mut Recording, x: Tensor, sums: Tensor, first: usize) {
    let parts = parts(x.len());
    assert!(first + parts <= sums.len(), "squares: {parts} parts from {first} on of {sums:?}");
    let params = Params { count: x.len() as u32, first: first as u32, parts: parts as u32 };
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[write(sums), read(x)], params, [parts as u32, 1, 1]);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut sums, x) = (call.f32_mut(0), call.f32(1));
    for part in 0..p.parts as usize {
        let of_part = x[..p.count as usize].chunks(LANES as usize).skip(part).step_by(p.parts as usize);
        let sum: f64 = of_part.flatten().map(|v| f64::from(*v).powi(2)).sum();
        sums[p.first as usize + part] = sum as f32;
    }
}

pub(crate) static OP: Op = Op { name: "squares", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (x, sums) = (e.f32(&[5000]), e.f32(&[parts(5000)]));
    squares(&mut e.recording, x, sums, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::compare;

    #[test]
    fn gpu_equals_reference() {
        for count in [1, 61, 1025, 200_000] {
            compare(&format!("{count}"), 1e-12, |pool, r, random| {
                let x = pool.f32(&[count], &random.f32s(count)).unwrap();
                let sums = pool.f32(&[parts(count) + 2], &random.f32s(parts(count) + 2)).unwrap();
                squares(r, x, sums, 1);
                vec![sums]
            });
        }
    }
}
