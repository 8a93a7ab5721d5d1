//! Whether a device computes what the kernels say: each call that a model's tasks make is tried before it is
//! trusted, those of captions when the model is loaded, those of other tasks when they are first asked for.
//!
//! A pipeline that computes wrongly is struck off, and the op's next way takes its place. What was found is kept by
//! adapter, driver and shaders, so that it is asked once.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::rc::Rc;

use async_lock::Mutex;
use web_time::Instant;

use crate::device::recording::{Dispatch, PipelineKey};
use crate::device::{Device, DeviceInfo};
use crate::error::{Error, Result};
use crate::files::checkpoint::Checkpoint;
use crate::files::notes::Notes;
use crate::model::calls::{Sketch, Task};
use crate::model::verdict::{Verdict, number};
use crate::ops::trial::Outcome;
use crate::ops::trial_of;

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
    /// How long it took beyond those before it, with all that belongs to it.
    pub seconds: f64,
}

/// What a check found.
#[derive(Clone, PartialEq, Debug)]
pub struct CheckReport {
    pub adapter: String,
    pub backend: String,
    pub driver: String,
    /// What was tried since the model is being loaded; nothing where all was known.
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

/// What checks the devices of a model, as far as its tasks need it.
pub(crate) struct Checks {
    checkpoint: Rc<Checkpoint>,
    how: Check,
    notes: Option<Box<dyn Notes>>,
    /// Hears of what is wrong where others stand in for it: where nothing does, the error tells.
    on_wrong: Option<OnWrong>,
    known: Mutex<Option<Known>>,
    report: RefCell<Option<CheckReport>>,
}

/// Hears of each time that something was found to be wrong.
pub(super) type OnWrong = Box<dyn Fn(&CheckReport)>;

/// What is known of a device.
struct Known {
    device: Device,
    sketch: Sketch,
    verdict: Verdict,
    /// What it can be asked for.
    tasks: HashSet<Task>,
}

/// Trials that a device is given before the first one's answer is awaited: it compiles one while others are made ready.
const AHEAD: usize = 6;

impl Checks {
    pub(super) fn new(
        checkpoint: Rc<Checkpoint>,
        how: Check,
        notes: Option<Box<dyn Notes>>,
        on_wrong: Option<OnWrong>,
    ) -> Checks {
        Checks { checkpoint, how, notes, on_wrong, known: Mutex::new(None), report: RefCell::default() }
    }

    /// What was found; nothing where nothing was asked.
    pub(super) fn report(&self, info: &DeviceInfo) -> CheckReport {
        self.report.borrow().clone().unwrap_or_else(|| CheckReport::new(info))
    }

    /// Tries what some tasks call and is not known to be right, until each call has a way whose pipelines stand, and lets
    /// the device take those ways from now on. `on_tried` hears of each trial.
    ///
    /// # Errors
    /// `E_ADAPTER` where a task needs what the device computes wrongly; the device's own, `E_DEVICE_LOST` and `E_OOM`.
    pub(crate) async fn ensure(&self, device: &Device, tasks: &[Task], on_tried: &mut dyn FnMut(&Tried)) -> Result<()> {
        if self.how == Check::Off || device.as_gpu().is_none() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        if known.as_ref().is_none_or(|known| !known.device.is(device)) {
            *known = Some(self.open(device).await?);
        }
        let Some(known) = &mut *known else { unreachable!("it was opened") };
        let new: Vec<Task> = tasks.iter().copied().filter(|task| !known.tasks.contains(task)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut report = self.report.take().unwrap_or_else(|| CheckReport::new(&device.info()));
        let before = (report.tried.len(), known.verdict.wrong.len());
        let needed = known.ways(&new, &mut report, on_tried).await;
        report.wrong = known.verdict.wrong.clone().into_iter().collect();
        // What nothing can be computed with is asked again the next time.
        report.needed = needed?;
        let usable = report.usable();
        if report.tried.len() > before.0 && usable.is_ok() {
            known.verdict.write(&device.info(), self.notes.as_deref()).await;
        }
        let news = known.verdict.wrong.len() > before.1 && usable.is_ok();
        if let Some(tell) = self.on_wrong.as_ref().filter(|_| news) {
            tell(&report);
        }
        self.report.replace(Some(report));
        usable?;
        known.tasks.extend(new);
        Ok(())
    }

    async fn open(&self, device: &Device) -> Result<Known> {
        let (info, sketch) = (device.info(), Sketch::of(&self.checkpoint, device).await?);
        let verdict = match self.how {
            Check::Again => Verdict::new(&info),
            _ => Verdict::read(&info, self.notes.as_deref()).await,
        };
        verdict.strike(device);
        Ok(Known { device: device.clone(), sketch, verdict, tasks: HashSet::new() })
    }
}

impl Known {
    /// Tries what the tasks call until each call has a way that stands. Returns the pipelines that nothing stands in for.
    async fn ways(
        &mut self,
        tasks: &[Task],
        report: &mut CheckReport,
        on_tried: &mut dyn FnMut(&Tried),
    ) -> Result<Vec<String>> {
        loop {
            let before = self.verdict.wrong.len();
            let calls = self.sketch.calls(&self.device, tasks)?;
            self.judge(&calls, report, on_tried).await?;
            self.verdict.strike(&self.device);
            if self.verdict.wrong.len() == before {
                let pipelines = calls.iter().map(|call| PipelineKey::of(call).to_string());
                let wrong = pipelines.filter(|pipeline| self.verdict.wrong.contains_key(pipeline));
                return Ok(wrong.collect::<BTreeSet<_>>().into_iter().collect());
            }
        }
    }

    async fn judge(
        &mut self,
        calls: &[Dispatch],
        report: &mut CheckReport,
        on_tried: &mut dyn FnMut(&Tried),
    ) -> Result<()> {
        let open = |call: &&Dispatch| {
            let pipeline = PipelineKey::of(call).to_string();
            !self.verdict.wrong.contains_key(&pipeline) && !self.verdict.right.contains(&number(call))
        };
        let open: Vec<&Dispatch> = calls.iter().filter(open).collect();
        let mut coming = open.into_iter();
        let mut since = Instant::now();
        let mut running = VecDeque::new();
        loop {
            while running.len() < AHEAD
                && let Some(call) = coming.next()
            {
                running.push_back((call, trial_of(call).start(&self.device)));
            }
            let Some((call, started)) = running.pop_front() else { return Ok(()) };
            let pipeline = PipelineKey::of(call).to_string();
            let shapes = started.trial.shapes();
            let outcome = match started.outcome().await {
                Ok(Outcome::Right(error)) => {
                    self.verdict.right.insert(number(call));
                    Ok(error)
                }
                Ok(Outcome::Wrong(fault)) => {
                    self.verdict.wrong.insert(pipeline.clone(), fault.clone());
                    Err(fault)
                }
                // What is too large for this adapter the model cannot call either.
                Err(Error::Limit { .. }) => continue,
                Err(error) => return Err(error),
            };
            let tried = Tried { pipeline, shapes, outcome, seconds: since.elapsed().as_secs_f64() };
            since = Instant::now();
            on_tried(&tried);
            report.tried.push(tried);
        }
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
