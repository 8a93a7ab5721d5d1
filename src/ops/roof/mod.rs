//! Two kernels that measure what an adapter can do at best: reading a large buffer, and fused multiply-adds.

use crate::device::recording::{Call, Dispatch, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::device::work::Work;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, kernel, read, write};

static READ: Kernel = kernel!("roof", "roof_read", Params, read_reference);
static FMA: Kernel = kernel!("roof", "roof_fma", Params, fma_reference, fma_work);

/// Workgroups of either kernel.
const WORKGROUPS: u32 = 4096;
/// Independent sums of an invocation of the multiply-add kernel, four numbers each.
const CHAINS: u32 = 4;

uniform! {
    struct Params {
        /// 16-byte pieces of the buffer, or rounds of multiply-adds.
        count: u32,
    }
}

/// The exclusive or of all words of `words` (a multiple of 4), a part an invocation, into `out`
/// U32 [invocations()].
pub fn roof_read(r: &mut Recording, words: Tensor, out: Tensor) {
    assert_eq!(out.len(), invocations());
    let params = Params { count: (words.size_bytes() / 16) as u32 };
    r.dispatch(&READ, &[("LANES", LANES as f64)], &[read(words), write(out)], params, [WORKGROUPS, 1, 1]);
}

/// `rounds` rounds of [`fmas_per_round`] multiply-adds; `out` F32 [invocations()] holds sums of `rounds * x`.
pub fn roof_fma(r: &mut Recording, out: Tensor, rounds: u32) {
    assert_eq!(out.len(), invocations());
    r.dispatch(&FMA, &[("LANES", LANES as f64)], &[write(out)], Params { count: rounds }, [WORKGROUPS, 1, 1]);
}

/// Invocations of either kernel.
pub fn invocations() -> usize {
    (WORKGROUPS * LANES) as usize
}

/// Multiply-adds of one round over all invocations.
pub fn fmas_per_round() -> u64 {
    invocations() as u64 * 4 * u64::from(CHAINS)
}

fn fma_work(dispatch: &Dispatch) -> Work {
    let p: Params = dispatch.params();
    Work { multiply_adds: fmas_per_round() * u64::from(p.count), bytes: dispatch.operand_bytes(), weight_bytes: 0 }
}

fn read_reference(call: &Call) {
    let (words, mut out) = (call.u32(0), call.u32_mut(1));
    let stride = out.len();
    for (i, o) in out.iter_mut().enumerate() {
        let pieces = words.chunks_exact(4).skip(i).step_by(stride);
        *o = pieces.flatten().fold(0, |all, word| all ^ word);
    }
}

fn fma_reference(call: &Call) {
    let p: Params = call.params();
    for (i, o) in call.f32_mut(0).iter_mut().enumerate() {
        let step = (i % 7) as f32 / 64.0;
        *o = (0..p.count).fold(0.0, |sum: f32, _| sum.mul_add(0.5, step)) * (4 * CHAINS) as f32;
    }
}

pub(crate) static OP: Op = Op { name: "roof", kernels: &[&READ, &FMA], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    if t.dispatch.kernel == &READ {
        t.fill(0, Fill::Words);
    }
}

fn examples(e: &mut Examples) {
    let (words, sums) = (e.u32(&[4096], Fill::Words), e.u32(&[invocations()], Fill::Value(0)));
    roof_read(&mut e.recording, words, sums);
    let out = e.f32(&[invocations()]);
    roof_fma(&mut e.recording, out, 40);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tensor::DType;
    use crate::ops::testing::{compare, play_both};

    #[test]
    fn gpu_equals_reference() {
        for words in [4, 173 * 4, 200_000] {
            let both = play_both(3, |pool, r, random| {
                let values: Vec<u32> = (0..words).map(|_| random.next_u32()).collect();
                let words = pool.u32(&[words], &values).unwrap();
                let out = pool.alloc(DType::U32, &[invocations()]).unwrap();
                roof_read(r, words, out);
                vec![out]
            });
            assert_eq!(both[0].0, both[0].1);
        }
        compare("fma", 1e-12, |pool, r, _| {
            let out = pool.alloc(DType::F32, &[invocations()]).unwrap();
            roof_fma(r, out, 40);
            vec![out]
        });
    }
}
