//! `y = x / 2 * (1 + erf(x / sqrt(2)))`: the exact GELU (Hendrycks and Gimpel, 2016).

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("linear", "gelu", Params, reference);

uniform! {
    struct Params {
        count: u32,
    }
}

/// GELU of each element of `x`, of any shape, to 1e-6. Returns the same shape.
pub fn gelu(r: &mut Recording, x: Tensor) -> Tensor {
    let y = r.scratch_f32(x.shape());
    let constants = [("LANES", LANES as f64)];
    let params = Params { count: x.len() as u32 };
    r.dispatch(&KERNEL, &constants, &[read(x), write(y)], params, grid(x.len().div_ceil(LANES as usize)));
    y
}

fn reference(call: &Call) {
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    y.iter_mut().zip(&x[..]).for_each(|(y, x)| *y = exact(f64::from(*x)) as f32);
}

/// GELU in f64: `max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2))`.
fn exact(x: f64) -> f64 {
    x.max(0.0) - 0.5 * x.abs() * erfc(x.abs() * std::f64::consts::FRAC_1_SQRT_2)
}

/// `1 - erf(z)` for z >= 0, to 1e-13 of its value: the series 7.1.6 of Abramowitz and Stegun near 0, beyond it the
/// continued fraction 7.1.14.
pub(crate) fn erfc(z: f64) -> f64 {
    if z > 27.0 {
        return 0.0;
    }
    let gauss = (-z * z).exp() / std::f64::consts::PI.sqrt();
    if z < 2.0 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > 1e-17 * sum {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        return 1.0 - 2.0 * gauss * sum;
    }
    let mut below = z;
    for n in (1..=60).rev() {
        below = z + f64::from(n) / 2.0 / below;
    }
    gauss / below
}

pub(crate) static OP: Op = Op { name: "gelu", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    // A line of workgroups, which a grid folds where it is long.
    let (count, lanes) = (t.param("count"), LANES as usize);
    let enough = Trial::shown(1) + lanes;
    let left = if count > enough { enough + count % lanes } else { count };
    t.dispatch.workgroups = grid(left.div_ceil(lanes));
    t.set("count", left);
    (0..2).for_each(|operand| t.reshape(operand, &[left]));
}

fn examples(e: &mut Examples) {
    let x = e.f32(&[5, 12800]);
    gelu(&mut e.recording, x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep, play_both};

    #[test]
    fn gpu_equals_reference() {
        for (rows, width) in [(1, 1), (3, 61), (1, 64), (7, 331), (2, 3200)] {
            compare(&format!("{rows} {width}"), 1e-12, |pool, r, random| {
                let values = random.f32s(rows * width).into_iter().map(|v| 4.0 * v).collect::<Vec<_>>();
                let x = pool.f32(&[rows, width], &values).unwrap();
                let y = gelu(r, x);
                vec![keep(pool, r, y)]
            });
        }
    }

    #[test]
    fn within_a_millionth_over_a_dense_sweep() {
        let values: Vec<f32> = (-100_000..=100_000).map(|i| i as f32 / 1e4).collect();
        let found = play_both(7, |pool, r, _| {
            let x = pool.f32(&[values.len()], &values).unwrap();
            let y = gelu(r, x);
            vec![keep(pool, r, y)]
        });
        for (x, y) in values.iter().zip(bytemuck::cast_slice::<u32, f32>(&found[0].1)) {
            let error = (f64::from(*y) - exact(f64::from(*x))).abs();
            assert!(error <= 1e-6, "gelu({x}) is {y}, off by {error:e}");
        }
    }

    #[test]
    fn large_numbers_are_their_positive_part() {
        let values = [-3e38f32, -1e20, -1e4, -40.0, -15.0, -0.0, 0.0, 15.0, 40.0, 1e4, 1e20, 3e38];
        let found = play_both(7, |pool, r, _| {
            let x = pool.f32(&[12], &values).unwrap();
            let y = gelu(r, x);
            vec![keep(pool, r, y)]
        });
        for words in [&found[0].0, &found[0].1] {
            for (x, y) in values.iter().zip(bytemuck::cast_slice::<u32, f32>(words)) {
                assert!((y - x.max(0.0)).abs() <= 1e-20, "gelu({x}) is {y}");
            }
        }
    }

    /// erfc from tables (Abramowitz and Stegun, 7.1 and 7.3, and to more places from any calculator).
    #[test]
    fn erfc_is_the_tables() {
        for (z, expected) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (1.999_999_999, 0.004_677_735_001_714_253),
            (2.0, 0.004_677_734_981_047_265),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
            (10.0, 2.088_487_583_762_545e-45),
        ] {
            let found = erfc(z);
            assert!((found - expected).abs() <= 1e-12 * expected, "erfc({z}) is {found}, not {expected}");
        }
    }
}
