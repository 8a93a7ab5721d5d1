//! Whether a gradient is the derivative of its op, by central differences on the CPU executor.

use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::device::{Device, Pool};

/// Compares `backward` with central differences of `forward`, at inputs of the given shapes, whose numbers are from minus
/// to plus the given size. The loss is the sum of what `forward` returns times random numbers `dy`, which `backward` gets;
/// it returns the gradient of each input.
pub fn agree(
    what: &str,
    inputs: &[(&[usize], f32)],
    forward: impl Fn(&mut Recording, &[Tensor]) -> Tensor,
    backward: impl Fn(&mut Recording, &[Tensor], Tensor) -> Vec<Tensor>,
) {
    let device = Device::cpu();
    let mut random = fastrand::Rng::with_seed(11);
    let mut floats = |count: usize| (0..count).map(|_| 2.0 * random.f32() - 1.0).collect::<Vec<f32>>();
    let values: Vec<Vec<f32>> = inputs
        .iter()
        .map(|(shape, size)| floats(shape.iter().product()).into_iter().map(|v| v * size).collect())
        .collect();
    let place = |pool: &mut Pool, values: &[Vec<f32>]| -> Vec<Tensor> {
        inputs.iter().zip(values).map(|((shape, _), values)| pool.f32(shape, values).unwrap()).collect()
    };
    let output = |values: &[Vec<f32>]| -> Vec<f32> {
        let mut pool = device.pool();
        let tensors = place(&mut pool, values);
        let mut r = Recording::new();
        let y = forward(&mut r, &tensors);
        let y = pool.keep(&mut r, y).unwrap();
        device.play(&r).unwrap();
        pollster::block_on(device.read_f32(y)).unwrap()
    };
    let dy = floats(output(&values).len());
    let loss = |values: &[Vec<f32>]| -> f64 {
        output(values).iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
    };

    let mut pool = device.pool();
    let tensors = place(&mut pool, &values);
    let mut r = Recording::new();
    let given = pool.f32(&[dy.len()], &dy).unwrap();
    let y = forward(&mut r, &tensors);
    let gradients = backward(&mut r, &tensors, given.reshape(y.shape()));
    let gradients: Vec<Tensor> = gradients.into_iter().map(|g| pool.keep(&mut r, g).unwrap()).collect();
    device.play(&r).unwrap();
    for (input, gradient) in gradients.into_iter().enumerate() {
        let found = pollster::block_on(device.read_f32(gradient)).unwrap();
        let (mut off, mut all) = (0.0, 0.0);
        for i in (0..found.len()).step_by(found.len().div_ceil(40)) {
            let at = |step: f32| {
                let mut values = values.clone();
                values[input][i] += step;
                (loss(&values), f64::from(values[input][i]))
            };
            let step = 0.02 * inputs[input].1;
            let ((high, x_high), (low, x_low)) = (at(step), at(-step));
            let expected = (high - low) / (x_high - x_low);
            off += (expected - f64::from(found[i])).powi(2);
            all += expected.powi(2);
        }
        assert!(off <= 1e-5 * all, "{what}: input {input}: {:e} beside central differences", off / all);
    }
}
