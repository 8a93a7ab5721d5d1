//! How a model is fine-tuned.

use crate::error::{Error, Result};

/// The rate of learning from step to step, behind a linear warm-up.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Schedule {
    /// Half a cosine, down to 0.
    #[default]
    Cosine,
    /// A straight line, down to 0.
    Linear,
    Constant,
}

/// What [`Model::trainer_async`](crate::Model::trainer_async) takes. The defaults are for 20 to 200 pictures.
#[derive(Clone, PartialEq, Debug)]
pub struct TrainerOptions {
    /// Of new adapters.
    pub rank: usize,
    /// Their products are multiplied by `alpha / rank`; twice the rank where it is not given.
    pub alpha: Option<f32>,
    /// The ends of the names of the decoder's modules that get adapters.
    pub targets: Vec<String>,
    /// Whether `lm_head` is trained too, whole: new words need it.
    pub lm_head: bool,
    /// The highest rate.
    pub learning_rate: f32,
    pub schedule: Schedule,
    /// Steps over which the rate rises.
    pub warmup: usize,
    /// Steps that the schedule is made for.
    pub steps: usize,
    /// The first step's number in the schedule: 1, so that it is not idle; the published training counts from 0.
    pub first_step: usize,
    pub weight_decay: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Gradients are scaled down to this norm, all together.
    pub max_grad_norm: f32,
    /// Batches whose mean a step takes.
    pub accumulate: usize,
    /// Of everything that is drawn.
    pub seed: u64,
}

/// Every matrix of self-attention and MLP.
pub const ALL_TARGETS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

impl Default for TrainerOptions {
    fn default() -> TrainerOptions {
        TrainerOptions {
            rank: 8,
            alpha: None,
            targets: ALL_TARGETS.map(String::from).to_vec(),
            lm_head: true,
            learning_rate: 2e-3,
            schedule: Schedule::Cosine,
            warmup: 10,
            steps: 120,
            first_step: 1,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            max_grad_norm: 1.0,
            accumulate: 1,
            seed: 1,
        }
    }
}

impl TrainerOptions {
    /// # Errors
    /// `E_INPUT` naming the option that is out of range.
    pub fn check(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::Input { reason });
        if self.rank == 0 {
            return fail("rank: an adapter has a rank of at least 1".into());
        }
        for (name, value, least) in [("steps", self.steps, 1), ("accumulate", self.accumulate, 1)] {
            if value < least {
                return fail(format!("{name}: at least {least}"));
            }
        }
        for (name, value) in [("learning_rate", self.learning_rate), ("max_grad_norm", self.max_grad_norm)] {
            if !(value.is_finite() && value > 0.0) {
                return fail(format!("{name}: {value} is not above 0"));
            }
        }
        if let Some(alpha) = self.alpha.filter(|alpha| !(alpha.is_finite() && *alpha > 0.0)) {
            return fail(format!("alpha: {alpha} is not above 0"));
        }
        let unknown = self.targets.iter().find(|target| !ALL_TARGETS.iter().any(|name| ends_with(name, target)));
        match unknown {
            Some(target) => fail(format!("targets: {target:?} ends none of {}", ALL_TARGETS.join(", "))),
            None if self.targets.is_empty() && !self.lm_head => fail("targets: there is nothing to train".into()),
            None => Ok(()),
        }
    }

    /// Whether a module gets an adapter.
    pub(crate) fn adapts(&self, module: &str) -> bool {
        self.targets.iter().any(|target| ends_with(module, target))
    }

    /// What adapters' products are multiplied by.
    pub(crate) fn alpha(&self) -> f32 {
        self.alpha.unwrap_or(2.0 * self.rank as f32)
    }

    /// The rate of step `k`, which counts from `first_step` on.
    pub fn rate(&self, k: usize) -> f32 {
        let end = (self.steps + self.first_step).max(self.warmup + 1);
        let (k, warmup, end) = (k as f64, self.warmup as f64, end as f64);
        let share = match self.schedule {
            _ if k < warmup => k / warmup,
            Schedule::Cosine => (1.0 + (std::f64::consts::PI * (k - warmup) / (end - warmup)).cos()) / 2.0,
            Schedule::Linear => (end - k) / (end - warmup),
            Schedule::Constant => 1.0,
        };
        (f64::from(self.learning_rate) * share.max(0.0)) as f32
    }
}

/// Whether a name ends with whole parts of a module's name.
fn ends_with(module: &str, target: &str) -> bool {
    module == target || module.strip_suffix(target).is_some_and(|before| before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let published = TrainerOptions { first_step: 0, steps: 10, warmup: 3, ..Default::default() };
        let rates: Vec<f32> = (0..10).map(|k| published.rate(k)).collect();
        assert_eq!(rates[0], 0.0);
        assert_eq!(rates[3], published.learning_rate);
        assert!(rates[3..].windows(2).all(|pair| pair[1] < pair[0]) && rates[9] > 0.0);
        let ours = TrainerOptions { steps: 10, warmup: 3, ..Default::default() };
        assert!((1..=10).all(|k| ours.rate(k) > 0.0));
        let constant = TrainerOptions { schedule: Schedule::Constant, ..ours.clone() };
        assert_eq!(constant.rate(10), constant.learning_rate);
        let linear = TrainerOptions { schedule: Schedule::Linear, ..ours };
        assert!((linear.rate(7) - linear.learning_rate * 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (options, name) in [
            (TrainerOptions { rank: 0, ..Default::default() }, "rank"),
            (TrainerOptions { steps: 0, ..Default::default() }, "steps"),
            (TrainerOptions { learning_rate: f32::NAN, ..Default::default() }, "learning_rate"),
            (TrainerOptions { targets: vec!["proj".into()], ..Default::default() }, "targets"),
            (TrainerOptions { targets: vec![], lm_head: false, ..Default::default() }, "targets"),
        ] {
            let error = options.check().unwrap_err();
            assert!(error.code() == "E_INPUT" && error.to_string().starts_with(name), "{error}");
        }
        assert!(TrainerOptions { targets: vec!["q_proj".into()], ..Default::default() }.check().is_ok());
    }
}
