//! Steps that start before the ones in front of them have told what they chose: the device need not wait for the host.

use std::collections::VecDeque;
use std::time::Duration;

use web_time::Instant;

use crate::device::tensor::Tensor;
use crate::device::{Device, Plan, Reader, Reading};
use crate::error::Result;

/// A pass through the model, made once, and what it leaves for the host: the chosen tokens, or the beams' candidates.
pub(crate) struct Step {
    pub(crate) plan: Plan,
    /// U32 [rows]; or F32 and U32 [rows, candidates], best first.
    pub(crate) chosen: Vec<Tensor>,
}

impl Step {
    /// A reader of what it leaves.
    pub(crate) fn reader(&self, device: &Device) -> Result<Reader> {
        device.reader(self.chosen.iter().map(Tensor::size_bytes).sum())
    }

    /// Starts it, and what it leaves on its way to the host.
    pub(crate) fn start(&self, device: &Device, reader: &Reader) -> Result<Reading> {
        device.run_and_read(&self.plan, reader, &self.chosen)
    }
}

/// How many steps may be on their way at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    pub(crate) most: usize,
    /// The most time that the steps behind the last one, which nobody needs, may take. It is short beside a caption, and
    /// longer than the host takes for what is between two steps.
    pub(crate) waste: Duration,
}

impl Depth {
    /// Of a device: the CPU has nobody else to do its steps meanwhile.
    pub(crate) fn of(device: &Device) -> Depth {
        Depth { most: if device.as_gpu().is_some() { 3 } else { 1 }, waste: Duration::from_millis(25) }
    }

    /// Steps at once where one takes so long; before that is known, two.
    fn at(self, step: Option<Duration>) -> usize {
        let spare = step.map_or(1, |step| (self.waste.as_nanos() / step.as_nanos().max(1)).min(2) as usize);
        self.most.min(1 + spare)
    }
}

/// A first step and repetitions of another, each started as early as may be.
pub(crate) struct Ahead<'a> {
    device: &'a Device,
    steps: [&'a Step; 2],
    readers: Vec<Reader>,
    readings: VecDeque<Reading>,
    started: usize,
    most_steps: usize,
    depth: Depth,
    /// When the last result came, and how long it took behind the one before.
    last: Option<Instant>,
    step_time: Option<Duration>,
}

impl<'a> Ahead<'a> {
    /// At most `most_steps` steps, the first among them.
    pub(crate) fn new(device: &'a Device, steps: [&'a Step; 2], most_steps: usize, depth: Depth) -> Result<Ahead<'a>> {
        let readers = (0..depth.most).map(|_| steps[1].reader(device)).collect::<Result<Vec<_>>>()?;
        let (readings, started, last, step_time) = (VecDeque::new(), 0, None, None);
        Ok(Ahead { device, steps, readers, readings, started, most_steps, depth, last, step_time })
    }

    /// What the next step chose.
    pub(crate) async fn next(&mut self, chosen: &mut [u32]) -> Result<()> {
        while self.readings.len() < self.depth.at(self.step_time) && self.started < self.most_steps {
            let step = self.steps[self.started.min(1)];
            let reader = &self.readers[self.started % self.readers.len()];
            self.readings.push_back(step.start(self.device, reader)?);
            self.started += 1;
        }
        let reading = self.readings.pop_front().expect("no more steps than were asked for");
        reading.finish(bytemuck::cast_slice_mut(chosen)).await?;
        let now = Instant::now();
        self.step_time = self.last.replace(now).map(|last| now - last);
        Ok(())
    }
}
