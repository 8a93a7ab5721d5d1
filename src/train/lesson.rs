//! What is taught, and in which order: the pictures of each step, drawn so that a step's number and the seed decide them.

use crate::device::Array;
use crate::error::{Error, Result};
use crate::train::example::Example;

/// A picture as InternViT sees it, in several views, and what it is called.
#[derive(Clone, Debug)]
pub struct Taught {
    /// [rows, vision_hidden_size] each; the first is the picture as it is.
    pub views: Vec<Array<f32>>,
    pub text: String,
}

/// The pictures to learn, and those that must stay.
pub struct Lesson {
    learn: Vec<Taught>,
    keep: Vec<Taught>,
    /// Examples a step; where something is to be kept, half of them.
    batch_size: usize,
    seed: u64,
}

impl Lesson {
    /// # Errors
    /// `E_INPUT` where there is nothing to learn, and for steps of no examples.
    pub fn new(learn: Vec<Taught>, keep: Vec<Taught>, batch_size: usize, seed: u64) -> Result<Lesson> {
        let fail = |reason: &str| Err(Error::Input { reason: reason.into() });
        if learn.is_empty() {
            return fail("there is no picture to learn from");
        }
        if batch_size == 0 || (batch_size == 1 && !keep.is_empty()) {
            return fail("batch_size: a step needs an example, and one more where something is to be kept");
        }
        Ok(Lesson { learn, keep, batch_size, seed })
    }

    /// Pictures to learn that a step has.
    fn learned_per_step(&self) -> usize {
        if self.keep.is_empty() { self.batch_size } else { self.batch_size.div_ceil(2) }
    }

    /// Steps in which each picture comes once.
    pub fn steps_per_epoch(&self) -> usize {
        self.learn.len().div_ceil(self.learned_per_step())
    }

    /// The examples of step `step`, which counts from 1: each picture to learn comes once before any comes again.
    pub fn step(&self, step: usize) -> Vec<Example<'_>> {
        let mut random = fastrand::Rng::with_seed(self.seed ^ (step as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let count = self.learned_per_step();
        let mut examples = Vec::with_capacity(self.batch_size);
        for at in (step - 1) * count..step * count {
            let (epoch, place) = (at / self.learn.len(), at % self.learn.len());
            examples.push(view(&self.learn[self.order(epoch)[place]], &mut random));
        }
        while examples.len() < self.batch_size {
            examples.push(view(&self.keep[random.usize(..self.keep.len())], &mut random));
        }
        examples
    }

    /// The order in which the pictures come in one round over all of them.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(self.seed.wrapping_add(1 + epoch as u64));
        let mut order: Vec<usize> = (0..self.learn.len()).collect();
        random.shuffle(&mut order);
        order
    }
}

fn view<'a>(taught: &'a Taught, random: &mut fastrand::Rng) -> Example<'a> {
    Example { vision: &taught.views[random.usize(..taught.views.len())], text: &taught.text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taught(count: usize, name: &str) -> Vec<Taught> {
        let views = |i: usize| (0..3).map(|v| Array::new(&[1, 1], vec![(10 * i + v) as f32])).collect();
        (0..count).map(|i| Taught { views: views(i), text: format!("{name}{i}") }).collect()
    }

    #[test]
    fn each_comes_once_before_any_comes_again() {
        let lesson = Lesson::new(taught(10, "learn "), taught(3, "keep "), 8, 7).unwrap();
        assert_eq!(lesson.steps_per_epoch(), 3);
        let mut texts = Vec::new();
        for step in 1..=5 {
            let examples = lesson.step(step);
            assert_eq!(examples.len(), 8);
            assert!(examples[4..].iter().all(|example| example.text.starts_with("keep")));
            texts.extend(examples[..4].iter().map(|example| example.text.to_string()));
        }
        for round in texts.chunks(10) {
            let mut round = round.to_vec();
            round.sort();
            round.dedup();
            assert_eq!(round.len(), 10);
        }
        assert_ne!(texts[..10], texts[10..]);
    }

    /// A step's examples depend on its number alone: a run that goes on sees what it would have seen.
    #[test]
    fn steps_come_again() {
        let make = || Lesson::new(taught(10, "learn "), Vec::new(), 4, 7).unwrap();
        let (one, other) = (make(), make());
        let shown = |lesson: &Lesson, step| {
            let of = |example: &Example<'_>| (example.text.to_string(), example.vision.values.clone());
            lesson.step(step).iter().map(of).collect::<Vec<_>>()
        };
        shown(&one, 1);
        assert_eq!(shown(&one, 9), shown(&other, 9));
        assert_ne!(shown(&one, 9), shown(&one, 10));
    }

    #[test]
    fn nothing_to_learn_is_an_error() {
        assert_eq!(Lesson::new(Vec::new(), taught(1, ""), 4, 1).err().unwrap().code(), "E_INPUT");
        assert_eq!(Lesson::new(taught(1, ""), taught(1, ""), 1, 1).err().unwrap().code(), "E_INPUT");
    }
}
