//! What a dispatch costs: what submissions are cut by, and what is counted and measured.

use std::ops::AddAssign;

/// The work of a dispatch, or of several.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Work {
    /// Multiply-adds of f32, or as much arithmetic as that.
    pub multiply_adds: u64,
    /// Bytes that go to and from memory where each is read once and written once.
    pub bytes: u64,
    /// Bytes of weights, counted as often as workgroups load them.
    pub weight_bytes: u64,
}

/// Multiply-adds that take as long as a byte. A slow adapter, whose submissions are the long ones, makes one or two while
/// it reads one.
const MULTIPLY_ADDS_A_BYTE: u64 = 2;

impl Work {
    /// What it takes, in multiply-adds: submissions are cut by that.
    pub fn cost(&self) -> u64 {
        self.multiply_adds + MULTIPLY_ADDS_A_BYTE * self.bytes
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.multiply_adds += other.multiply_adds;
        self.bytes += other.bytes;
        self.weight_bytes += other.weight_bytes;
    }
}
