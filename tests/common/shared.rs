//! What the library's unit tests share with the integration tests: numbers, their comparison, and how tests are skipped.
#![allow(dead_code)]

use std::io::Write;

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

/// Says that this test is not made for want of `what`, past libtest's capture. Where `QLLAMA_REQUIRE_ALL` is set it
/// fails instead, but for what `QLLAMA_MAY_SKIP` lists with commas between.
pub fn skipped(what: &str, why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let may_skip = std::env::var("QLLAMA_MAY_SKIP").unwrap_or_default();
    let allowed = std::env::var_os("QLLAMA_REQUIRE_ALL").is_none_or(|set| set.is_empty())
        || may_skip.split(',').any(|name| name == what);
    assert!(allowed, "not to be skipped, as QLLAMA_REQUIRE_ALL is set and QLLAMA_MAY_SKIP has no {what}: {why}");
    std::io::stderr().write_all(format!("skipped: {test} ({what}): {why}\n").as_bytes()).unwrap();
}
