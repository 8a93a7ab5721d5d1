//! What the inputs of examples and trials hold.

use fastrand::Rng;
use half::{bf16, f16};

use crate::device::tensor::{DType, Tensor};

/// What an input may hold.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Floats from -1 to 1, stored as this type.
    Floats(DType),
    /// F32 from -1 to 1 in so many columns, and zeros behind them.
    Columns(usize),
    /// F32 from 0.5 to 1.
    Positive,
    /// Any words.
    Words,
    /// Integers below this.
    Below(u32),
    /// 0, 1, 2, ...
    Counting,
    /// The one number.
    Value(u32),
}

impl Fill {
    /// The words of a tensor that holds this.
    pub fn words(self, tensor: Tensor, random: &mut Rng) -> Vec<u32> {
        let float = |random: &mut Rng| 2.0 * random.f32() - 1.0;
        let half = |random: &mut Rng| u32::from(f16::from_f32(float(random)).to_bits());
        let upper = |random: &mut Rng| u32::from(bf16::from_f32(float(random)).to_bits());
        let mut word = |i: usize| match self {
            Fill::Floats(DType::F16) => half(random) | half(random) << 16,
            Fill::Floats(DType::BF16) => upper(random) | upper(random) << 16,
            Fill::Floats(_) => float(random).to_bits(),
            Fill::Columns(columns) => {
                if i % tensor.width() < columns {
                    float(random).to_bits()
                } else {
                    0
                }
            }
            Fill::Positive => (0.5 + 0.5 * random.f32()).to_bits(),
            Fill::Words => random.u32(..),
            Fill::Below(limit) => random.u32(..limit),
            Fill::Counting => i as u32,
            Fill::Value(value) => value,
        };
        (0..tensor.size_bytes() / 4).map(&mut word).collect()
    }
}
