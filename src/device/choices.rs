//! Which of the ways that an op has a device takes: those that compute wrongly on it are struck off, and those that were
//! measured to be fast on it go first.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::device::maker::Maker;

/// What is known of a device's ways to compute. Nothing is known at first: then the first way of each op is taken.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Choices {
    maker: Maker,
    /// Pipelines, in words, that compute wrongly here.
    struck: HashSet<String>,
    /// A call, in words, and the way that is fastest for it, in words.
    tuned: HashMap<String, String>,
}

impl Choices {
    /// Nothing is known but who made the device.
    pub fn of(maker: Maker) -> Choices {
        Choices { maker, ..Choices::default() }
    }

    /// Who made the device: the order of an op's ways may depend on it.
    pub fn maker(&self) -> Maker {
        self.maker
    }

    /// Strikes a pipeline off: no way that needs it is taken while there is another.
    pub fn strike(&mut self, pipeline: impl fmt::Display) {
        self.struck.insert(pipeline.to_string());
    }

    /// Whether no pipeline is struck off.
    pub fn all_stand(&self) -> bool {
        self.struck.is_empty()
    }

    pub fn is_struck(&self, pipeline: impl fmt::Display) -> bool {
        !self.all_stand() && self.struck.contains(&pipeline.to_string())
    }

    /// The pipelines that were struck off, in order.
    pub fn struck(&self) -> Vec<&str> {
        let mut struck: Vec<&str> = self.struck.iter().map(String::as_str).collect();
        struck.sort_unstable();
        struck
    }

    /// Prefers a way for a call; both as [`Recording::choose`](crate::device::recording::Recording::choose) has them.
    pub fn prefer(&mut self, call: impl fmt::Display, way: impl fmt::Debug) {
        self.tuned.insert(call.to_string(), format!("{way:?}"));
    }

    /// The number of the way, of `ways`, that was measured to be the fastest for `call`.
    pub fn preferred(&self, call: fmt::Arguments<'_>, ways: &[impl fmt::Debug]) -> Option<usize> {
        if self.tuned.is_empty() {
            return None;
        }
        let wanted = self.tuned.get(&call.to_string())?;
        ways.iter().position(|way| format!("{way:?}") == *wanted)
    }
}
