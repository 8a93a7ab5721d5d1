//! Numbers for tests, and their comparison. The library's unit tests include this file too.
#![allow(dead_code)]

/// xorshift64: numbers that look random and are the same on every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next_u32(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// Uniform in [-1, 1).
    pub fn f32(&mut self) -> f32 {
        self.next_u32() as f32 / (1u64 << 31) as f32 - 1.0
    }

    pub fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }

    pub fn below(&mut self, n: u32) -> u32 {
        self.next_u32() % n
    }
}

/// Sum of squared differences over the sum of squares of what is expected. Panics on numbers that are not finite.
pub fn nmse(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len(), "lengths differ");
    for (name, values) in [("expected", expected), ("found", found)] {
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            panic!("{name}[{at}] is {}", values[at]);
        }
    }
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = expected.iter().zip(found).map(|(e, f)| square(e - f)).sum();
    difference / expected.iter().map(|e| square(*e)).sum::<f64>().max(1e-30)
}
