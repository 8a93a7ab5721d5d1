//! Whether a device computes what the kernels say: each call that a model may make is tried before it is trusted.
//!
//! A pipeline that computes wrongly is struck off, and the op's next way takes its place. What was found is kept by
//! adapter, driver and shaders, so that it is asked once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::device::choices::Choices;
use crate::device::recording::{Dispatch, PipelineKey};
use crate::device::{Device, DeviceInfo};
use crate::error::{Error, Result};
use crate::files::notes::Notes;
use crate::model::calls::Sketch;
use crate::ops::trial::Outcome;
use crate::ops::{shaders_hash, trial_of};

/// Whether the GPU is checked before a model is loaded.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Check {
    /// What was not checked yet on this adapter, driver and version.
    #[default]
    On,
    /// Nothing, and what was found before counts for nothing.
    Off,
    /// Everything, whatever was found before.
    Again,
}

/// What became of one call.
#[derive(Clone, PartialEq, Debug)]
pub struct Tried {
    /// The pipeline, in words: the kernel and the constants that it was made with.
    pub pipeline: String,
    /// The shapes of its operands, cut to what was tried.
    pub shapes: String,
    /// The normalised mean squared error; or what is wrong.
    pub outcome: std::result::Result<f64, String>,
    /// How long it took with all that belongs to it, where there is a clock.
    pub seconds: f64,
}

/// What a check found.
#[derive(Clone, PartialEq, Debug)]
pub struct CheckReport {
    pub adapter: String,
    pub backend: String,
    pub driver: String,
    /// What was tried now; nothing where all was known.
    pub tried: Vec<Tried>,
    /// Pipelines that compute wrongly, each with what is wrong, whenever that was found.
    pub wrong: Vec<(String, String)>,
    /// Those that the model cannot do without.
    pub needed: Vec<String>,
}

impl CheckReport {
    fn new(info: &DeviceInfo) -> CheckReport {
        let (adapter, backend, driver) = (info.name.clone(), info.backend.clone(), info.driver.clone());
        CheckReport { adapter, backend, driver, tried: Vec::new(), wrong: Vec::new(), needed: Vec::new() }
    }

    /// Whether something was found to be wrong now.
    pub fn has_news(&self) -> bool {
        self.tried.iter().any(|tried| tried.outcome.is_err())
    }

    /// What is wrong, to be sent to whoever can mend it; `None` where nothing is.
    pub fn text(&self) -> Option<String> {
        if self.wrong.is_empty() {
            return None;
        }
        let CheckReport { adapter, backend, driver, wrong, needed, .. } = self;
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("qllama {version}: adapter {adapter:?} ({backend}, {driver}) computes wrongly:\n");
        for (pipeline, fault) in wrong {
            text += &format!("  {pipeline}: {fault}\n");
        }
        text += match needed.is_empty() {
            true => "Other kernels take their place: results are right, and may take longer.",
            false => "There is no other way to compute what the model needs of these.",
        };
        Some(text)
    }

    /// # Errors
    /// `E_ADAPTER` where the model needs what the adapter cannot compute.
    pub fn usable(&self) -> Result<()> {
        let Some(pipeline) = self.needed.first() else { return Ok(()) };
        let fault = self.wrong.iter().find(|(wrong, _)| wrong == pipeline).map_or("", |(_, fault)| fault);
        let CheckReport { adapter, backend, driver, needed, .. } = self;
        let others = match needed.len() - 1 {
            0 => String::new(),
            n => format!(", and so do {n} others"),
        };
        let reason = format!(
            "adapter {adapter:?} ({backend}, {driver}) computes wrongly: kernel {pipeline} gives a wrong result \
             ({fault}){others}, and there is no other way to compute it"
        );
        Err(Error::Adapter { reason })
    }
}

/// What is known of an adapter, as it is kept.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Verdict {
    adapter: String,
    backend: String,
    driver: String,
    shaders: u64,
    /// Calls that are computed rightly, each by its number.
    right: BTreeSet<u64>,
    /// Pipelines that compute wrongly, and what is wrong.
    wrong: BTreeMap<String, String>,
}

impl Verdict {
    fn new(info: &DeviceInfo) -> Verdict {
        let (adapter, backend, driver) = (info.name.clone(), info.backend.clone(), info.driver.clone());
        let (right, wrong) = (BTreeSet::new(), BTreeMap::new());
        Verdict { adapter, backend, driver, shaders: shaders_hash(), right, wrong }
    }

    /// The name of the file that it is kept in.
    fn file(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.adapter, &self.backend, &self.driver).hash(&mut hasher);
        format!("check-{:016x}.json", hasher.finish())
    }

    /// What was kept of this adapter, driver and version; what is damaged or of others counts for nothing.
    async fn read(info: &DeviceInfo, notes: Option<&dyn Notes>) -> Verdict {
        let new = Verdict::new(info);
        let Some(notes) = notes else { return new };
        let kept = notes.read(&new.file()).await.and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
        let same = |v: &Verdict| {
            (&v.adapter, &v.backend, &v.driver, v.shaders) == (&new.adapter, &new.backend, &new.driver, new.shaders)
        };
        kept.filter(same).unwrap_or(new)
    }

    async fn write(&self, notes: Option<&dyn Notes>) {
        if let (Some(notes), Ok(bytes)) = (notes, serde_json::to_vec(self)) {
            notes.write(&self.file(), &bytes).await;
        }
    }

    fn strike(&self, device: &Device) {
        let mut choices = Choices::clone(&device.choices());
        self.wrong.keys().for_each(|pipeline| choices.strike(pipeline));
        device.set_choices(choices);
    }
}

/// A call's number: no other pipeline, parameters or grid have it.
fn number(call: &Dispatch) -> u64 {
    let mut hasher = DefaultHasher::new();
    (PipelineKey::of(call).to_string(), &call.params, call.workgroups).hash(&mut hasher);
    hasher.finish()
}

/// What checks a device.
pub(crate) struct Checker<'a> {
    pub how: Check,
    pub notes: Option<&'a dyn Notes>,
    /// Seconds since some moment.
    pub clock: &'a dyn Fn() -> f64,
    /// Hears of each call that was tried.
    pub on_tried: &'a mut dyn FnMut(&Tried),
}

impl Checker<'_> {
    /// Tries what a model calls and is not known to be right, until each call has a way whose pipelines stand, and lets the
    /// device take those ways from now on.
    ///
    /// # Errors
    /// Only the device's own, `E_DEVICE_LOST` and `E_OOM`: see [`CheckReport::usable`].
    pub(crate) async fn check(&mut self, device: &Device, sketch: &Sketch) -> Result<CheckReport> {
        let info = device.info();
        let mut report = CheckReport::new(&info);
        if self.how == Check::Off || device.as_gpu().is_none() {
            return Ok(report);
        }
        let mut verdict = match self.how {
            Check::Again => Verdict::new(&info),
            _ => Verdict::read(&info, self.notes).await,
        };
        verdict.strike(device);
        loop {
            let before = verdict.wrong.len();
            for call in sketch.calls(device)? {
                self.judge(device, &call, &mut verdict, &mut report).await?;
            }
            verdict.strike(device);
            if verdict.wrong.len() == before {
                break;
            }
        }
        let calls = sketch.calls(device)?;
        let needed =
            calls.iter().map(|call| PipelineKey::of(call).to_string()).filter(|p| verdict.wrong.contains_key(p));
        report.needed = needed.collect::<BTreeSet<_>>().into_iter().collect();
        // What nothing can be computed with is asked again the next time.
        if !report.tried.is_empty() && report.needed.is_empty() {
            verdict.write(self.notes).await;
        }
        report.wrong = verdict.wrong.into_iter().collect();
        Ok(report)
    }

    async fn judge(
        &mut self,
        device: &Device,
        call: &Dispatch,
        verdict: &mut Verdict,
        report: &mut CheckReport,
    ) -> Result<()> {
        let (pipeline, number) = (PipelineKey::of(call).to_string(), number(call));
        if verdict.wrong.contains_key(&pipeline) || verdict.right.contains(&number) {
            return Ok(());
        }
        let started = (self.clock)();
        let trial = trial_of(call);
        let outcome = match trial.run(device).await {
            Ok(Outcome::Right(error)) => {
                verdict.right.insert(number);
                Ok(error)
            }
            Ok(Outcome::Wrong(fault)) => {
                verdict.wrong.insert(pipeline.clone(), fault.clone());
                Err(fault)
            }
            // What is too large for this adapter the model cannot call either.
            Err(Error::Limit { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let shapes: Vec<String> = trial.dispatch.operands.iter().map(|(t, _)| format!("{:?}", t.shape())).collect();
        let tried = Tried { pipeline, shapes: shapes.join(" "), outcome, seconds: (self.clock)() - started };
        (self.on_tried)(&tried);
        report.tried.push(tried);
        Ok(())
    }
}

/// What was found out about an adapter before; `None` where it is right, or nothing is known.
pub async fn kept_report(info: &DeviceInfo, notes: &dyn Notes) -> Option<String> {
    let verdict = Verdict::read(info, Some(notes)).await;
    let mut report = CheckReport::new(info);
    report.wrong = verdict.wrong.into_iter().collect();
    report.text()
}

#[cfg(test)]
mod tests;
