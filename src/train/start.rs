//! What training starts from: new adapters, and the values of matrices that are trained whole.

use crate::device::{Array, Device};
use crate::error::{Error, Result};
use crate::files::peft::{AdapterWeights, LowRank};
use crate::model::network::Network;
use crate::ops::linear::{Epilogue, linear};
use crate::train::options::{ALL_TARGETS, TrainerOptions};
use crate::weights::matrix::Matrix;

/// Rows of a matrix that are brought to the host at a time.
const ROWS: usize = 256;

/// New adapters for a decoder: A uniform from `-1 / sqrt(in)` to `1 / sqrt(in)` (Kaiming, a = sqrt 5), B zero, so that
/// nothing changes before the first step.
///
/// # Errors
/// `E_INPUT` for a rank above the smaller side of a module; the device's.
pub async fn new_adapters(network: &Network, options: &TrainerOptions) -> Result<AdapterWeights> {
    let decoder = network.decoder();
    let (c, heads) = (&decoder.config, decoder.heads());
    let (h, inner) = (c.hidden_size, c.intermediate_size);
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut weights = AdapterWeights { name: "new adapters".into(), ..Default::default() };
    let rank = options.rank;
    for i in 0..c.num_hidden_layers {
        for name in ALL_TARGETS {
            let [rows, cols] = match name {
                "self_attn.q_proj" => [heads.q_width(), h],
                "self_attn.o_proj" => [h, heads.q_width()],
                "mlp.down_proj" => [h, inner],
                "mlp.gate_proj" | "mlp.up_proj" => [inner, h],
                _ => [heads.kv_width(), h],
            };
            let module = format!("model.layers.{i}.{name}");
            if !options.adapts(&module) {
                continue;
            }
            if rank > rows.min(cols) {
                let reason = format!("rank: {rank} is above the smaller side of {module} [{rows}, {cols}]");
                return Err(Error::Input { reason });
            }
            let bound = (cols as f32).sqrt().recip();
            let a = (0..rank * cols).map(|_| (2.0 * random.f32() - 1.0) * bound).collect();
            let low_rank = LowRank {
                a: Array::new(&[rank, cols], a),
                b: Array::new(&[rows, rank], vec![0.0; rows * rank]),
                scale: options.alpha() / rank as f32,
                stored_name: format!("base_model.model.{module}"),
            };
            weights.modules.insert(module, low_rank);
        }
    }
    if options.lm_head {
        let head = decoder.head();
        let values = values(network.device(), head).await?;
        weights.saved.insert("lm_head.weight".into(), Array::new(&[head.rows, head.cols], values));
    }
    Ok(weights)
}

/// The values of a matrix of any format [rows, cols], as products see them: those of the unit vectors.
pub async fn values(device: &Device, matrix: &Matrix) -> Result<Vec<f32>> {
    let (rows, cols) = (matrix.rows, matrix.cols);
    let mut out = vec![0.0; rows * cols];
    for first in (0..cols).step_by(ROWS) {
        let count = ROWS.min(cols - first);
        let mut pool = device.pool();
        let mut units = vec![0.0; count * cols];
        (0..count).for_each(|i| units[i * cols + first + i] = 1.0);
        let units = pool.f32(&[count, cols], &units)?;
        let mut r = device.recording();
        let columns = linear(&mut r, units, matrix, Epilogue::default());
        let columns = pool.keep(&mut r, columns)?;
        device.play(&r)?;
        for (i, column) in device.read_f32(columns).await?.chunks(rows).enumerate() {
            column.iter().enumerate().for_each(|(row, value)| out[row * cols + first + i] = *value);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tensor::{DType, Storage};
    use crate::ops::testing::{Random, Shape, gpu_device, random_matrix};
    use crate::weights::layout::Format;

    /// A packed matrix's values are those that the layout tells, to the bit.
    #[test]
    fn unit_vectors_show_a_matrix() {
        for format in [Format::BF16, Format::Int { bits: 4, group: 32 }] {
            let shape = Shape {
                rows: 37,
                cols: 300,
                format,
                scales: DType::F32,
                offsets: true,
                part_rows: 32,
                storage: Storage::Buffer,
            };
            let found: Vec<Vec<f32>> = [&Device::cpu(), gpu_device()]
                .into_iter()
                .map(|device| {
                    let mut pool = device.pool();
                    let matrix = random_matrix(&mut pool, &mut Random::new(5), shape);
                    pollster::block_on(values(device, &matrix)).unwrap()
                })
                .collect();
            assert!(crate::ops::testing::nmse(&found[0], &found[1]) < 1e-13, "{format:?}");
        }
    }
}
