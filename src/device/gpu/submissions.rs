//! The way of plans to the GPU: submissions of about a tenth of a second, by the speed that the adapter showed so far.
//!
//! Watchdogs of operating systems and browsers end submissions that take seconds, and a long one holds up the screen.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use web_time::Instant;

use crate::device::cut::{Cutter, STARTS, Submission, Uncut, number_of_start, start_of_number};
use crate::device::gpu::faults::Faults;
use crate::error::Result;

/// What a submission should take.
const WANTED: Duration = Duration::from_millis(100);
/// Multiply-adds, or as much, of the first submissions: a tenth of a second of the slowest adapters.
const FIRST_LIMIT: u64 = 100_000_000;
/// They never become smaller than this, whatever held them up.
const LEAST_LIMIT: u64 = FIRST_LIMIT / 4;
/// From one measurement to the next, submissions grow no more than this many times.
const GROWTH: u64 = 2;
/// Waits that are shorter met work that was done already: nobody knows since when.
const LEAST_WAIT: Duration = Duration::from_micros(200);
/// Uniform buffer ranges start at multiples of this: WebGPU's default `minUniformBufferOffsetAlignment`.
const START_BYTES: u32 = 256;
/// Bytes of the starts that a device keeps at hand.
pub(super) const STARTS_BYTES: u64 = (STARTS * START_BYTES) as u64;

/// A recording's pipelines, bind groups and grids, with their costs.
pub struct GpuPlan {
    pub(super) steps: Vec<PlanStep>,
    pub(super) uncut: Vec<Uncut>,
}

/// One dispatch, made ready.
pub(super) struct PlanStep {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) group: wgpu::BindGroup,
}

/// How submissions went so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Submitted {
    pub count: u64,
    /// The longest that was measured. Work that waited behind other work counts with it.
    pub longest: Duration,
}

/// Sends plans to a device's queue.
pub(super) struct Submissions {
    device: wgpu::Device,
    queue: wgpu::Queue,
    faults: Arc<Faults>,
    /// The workgroups at which parts of grids may begin, one each 256 bytes, for both dimensions.
    starts: wgpu::BindGroup,
    pace: Arc<Mutex<Pace<wgpu::SubmissionIndex>>>,
}

impl Submissions {
    /// `layout` is that of group 1.
    pub(super) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        faults: &Arc<Faults>,
        layout: &wgpu::BindGroupLayout,
    ) -> Submissions {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("starts"),
            size: STARTS_BYTES,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut words = vec![0u32; (STARTS * START_BYTES / 4) as usize];
        let each = words.iter_mut().step_by((START_BYTES / 4) as usize);
        each.enumerate().for_each(|(number, word)| *word = start_of_number(number as u32));
        queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
        let start = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &buffer,
            offset: 0,
            size: std::num::NonZeroU64::new(u64::from(START_BYTES)),
        });
        let starts = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("starts"),
            layout,
            entries: &[0, 1].map(|binding| wgpu::BindGroupEntry { binding, resource: start.clone() }),
        });
        let pace = Arc::new(Mutex::new(Pace::new(Instant::now())));
        Submissions { device: device.clone(), queue: queue.clone(), faults: faults.clone(), starts, pace }
    }

    pub(super) fn submitted(&self) -> Submitted {
        self.pace.lock().unwrap().submitted
    }

    /// Takes this as what a submission may cost, now and at most.
    pub(super) fn limit(&self, cost: u64) {
        let mut pace = self.pace.lock().unwrap();
        (pace.most, pace.limit) = (cost, cost);
    }

    /// Starts a plan, however long it is, as [`Submissions::run`] does: also in a browser no more than two submissions'
    /// time is queued, so that the speed is known while the rest is cut.
    pub(super) async fn run_long(&self, plan: &GpuPlan) -> Result<()> {
        let mut cutter = Cutter::new(&plan.uncut);
        while !cutter.is_done() {
            let submission = cutter.submission(self.pace.lock().unwrap().limit);
            let mut encoder = self.device.create_command_encoder(&Default::default());
            self.encode(&mut encoder, plan, &submission);
            self.await_room(submission.cost).await?;
            self.submit(encoder.finish(), submission.cost)?;
        }
        Ok(())
    }

    /// Starts a plan; `last` may add to its last submission. Returns that submission. Waits where more than two
    /// submissions' time is queued, so that the speed is known early; in a browser nothing waits here.
    pub(super) fn run(
        &self,
        plan: &GpuPlan,
        last: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        let mut cutter = Cutter::new(&plan.uncut);
        let mut last = Some(last);
        loop {
            let submission = cutter.submission(self.pace.lock().unwrap().limit);
            let mut encoder = self.device.create_command_encoder(&Default::default());
            self.encode(&mut encoder, plan, &submission);
            if let Some(last) = last.take_if(|_| cutter.is_done()) {
                last(&mut encoder);
            }
            let commands = encoder.finish();
            self.make_room(submission.cost)?;
            let index = self.submit(commands, submission.cost)?;
            if cutter.is_done() {
                return Ok(index);
            }
        }
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder, plan: &GpuPlan, submission: &Submission) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for piece in &submission.pieces {
            let step = &plan.steps[piece.dispatch];
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, &step.group, &[]);
            if plan.uncut[piece.dispatch].divides {
                let offsets = piece.first.map(|start| number_of_start(start) * START_BYTES);
                pass.set_bind_group(1, &self.starts, &offsets);
            }
            pass.dispatch_workgroups(piece.size[0], piece.size[1], 1);
        }
    }

    /// Submits commands that cost so much.
    pub(super) fn submit(&self, commands: wgpu::CommandBuffer, cost: u64) -> Result<wgpu::SubmissionIndex> {
        // What has ended meanwhile is not taken for busy.
        self.poll(wgpu::PollType::Poll)?;
        self.faults.moment(&self.device);
        let index = self.queue.submit([commands]);
        self.pace.lock().unwrap().start(index.clone(), cost, Instant::now());
        let pace = self.pace.clone();
        self.queue.on_submitted_work_done(move || {
            let mut pace = pace.lock().unwrap();
            pace.end();
            if cfg!(target_arch = "wasm32") {
                pace.settle(Instant::now(), true);
            }
            let waiting = std::mem::take(&mut pace.waiting);
            drop(pace);
            waiting.into_iter().for_each(|tell| tell(()));
        });
        Ok(index)
    }

    /// As [`Submissions::make_room`], to be awaited; in a browser, too.
    async fn await_room(&self, cost: u64) -> Result<()> {
        self.make_room(cost)?;
        loop {
            let ended = {
                let mut pace = self.pace.lock().unwrap();
                if pace.oldest_beyond(cost).is_none() {
                    return Ok(());
                }
                let (tell, ended) = self.faults.answer();
                pace.waiting.push(Box::new(tell));
                ended
            };
            let _ = ended.await;
            self.check()?;
        }
    }

    /// Waits for the oldest submissions while those on their way, with one of this cost, take longer than two should.
    fn make_room(&self, cost: u64) -> Result<()> {
        if cfg!(target_arch = "wasm32") {
            return Ok(());
        }
        loop {
            let oldest = self.pace.lock().unwrap().oldest_beyond(cost);
            match oldest {
                Some(index) => self.wait(index)?,
                None => return Ok(()),
            }
        }
    }

    /// Waits for a submission. In a browser, only awaiting a read waits.
    pub(super) fn wait(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        self.faults.moment(&self.device);
        self.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None })
    }

    /// Waits for all submissions. In a browser, only awaiting a read waits.
    pub(super) fn wait_for_all(&self) -> Result<()> {
        self.faults.moment(&self.device);
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// As [`Faults::check`].
    pub(super) fn check(&self) -> Result<()> {
        self.faults.check(&self.device)
    }

    /// As [`Faults::settle`].
    pub(super) async fn settle(&self) -> Result<()> {
        self.faults.settle(&self.device).await
    }

    fn poll(&self, until: wgpu::PollType) -> Result<()> {
        if cfg!(target_arch = "wasm32") {
            return self.check();
        }
        let before = Instant::now();
        let polled = self.faults.poll(&self.device, until);
        let now = Instant::now();
        self.pace.lock().unwrap().settle(now, now - before >= LEAST_WAIT);
        polled
    }
}

/// What follows from the times of submissions; `I` names one.
struct Pace<I> {
    /// The most that a submission may cost, and the most that this may become.
    limit: u64,
    most: u64,
    /// Submissions on their way, with their costs, oldest first.
    running: VecDeque<(I, u64)>,
    /// Since when the device does nothing else, what that has cost so far, and the costliest of it.
    busy_since: Instant,
    done: u64,
    costliest: u64,
    submitted: Submitted,
    /// Told when the next submission has ended.
    waiting: Vec<Box<dyn FnOnce(()) + Send>>,
}

impl<I: Clone> Pace<I> {
    fn new(now: Instant) -> Pace<I> {
        let submitted = Submitted::default();
        Pace {
            limit: FIRST_LIMIT,
            most: u64::MAX,
            running: VecDeque::new(),
            busy_since: now,
            done: 0,
            costliest: 0,
            submitted,
            waiting: Vec::new(),
        }
    }

    fn start(&mut self, index: I, cost: u64, now: Instant) {
        if self.running.is_empty() {
            self.begin(now);
        }
        self.running.push_back((index, cost));
        self.submitted.count += 1;
    }

    /// The oldest submission, where all with one of this cost take longer than two should.
    fn oldest_beyond(&self, cost: u64) -> Option<I> {
        let queued: u64 = self.running.iter().map(|(_, cost)| cost).sum();
        let (oldest, _) = self.running.front()?;
        (queued.saturating_add(cost) > self.limit.saturating_mul(2)).then(|| oldest.clone())
    }

    /// The oldest submission has ended, some time ago.
    fn end(&mut self) {
        if let Some((_, cost)) = self.running.pop_front() {
            self.done += cost;
            self.costliest = self.costliest.max(cost);
        }
    }

    /// Looks at what has ended since the device became busy: with `exact`, the last of it just now.
    fn settle(&mut self, now: Instant, exact: bool) {
        if exact && self.done > 0 {
            self.measured(now - self.busy_since);
        }
        if exact || self.running.is_empty() {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Instant) {
        (self.busy_since, self.done, self.costliest) = (now, 0, 0);
    }

    fn measured(&mut self, time: Duration) {
        let longest = time.mul_f64(self.costliest as f64 / self.done as f64);
        self.submitted.longest = self.submitted.longest.max(longest);
        let fitting = (self.done as f64 * WANTED.as_secs_f64() / time.as_secs_f64().max(1e-9)) as u64;
        if fitting > self.limit {
            self.limit = fitting.min(self.limit.saturating_mul(GROWTH));
        } else if longest > WANTED / 2 {
            // Shorter ones are slow by what every submission takes, whatever is in it.
            self.limit = fitting.max(LEAST_LIMIT);
        }
        self.limit = self.limit.min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::Gpu;
    use crate::device::gpu::adapter::candidates;

    /// Runs submissions of the current limit, one after another, at this many multiply-adds a second; returns the longest.
    fn run(pace: &mut Pace<u32>, now: &mut Instant, rate: f64, count: u32) -> Duration {
        let mut longest = Duration::ZERO;
        for i in 0..count {
            let cost = pace.limit;
            pace.start(i, cost, *now);
            let time = Duration::from_secs_f64(cost as f64 / rate);
            longest = longest.max(time);
            *now += time;
            pace.end();
            pace.settle(*now, true);
        }
        longest
    }

    #[test]
    fn submissions_grow_to_a_tenth_of_a_second() {
        for rate in [1e9, 7e9, 3e11, 2e13] {
            let mut now = Instant::now();
            let mut pace = Pace::new(now);
            assert!(run(&mut pace, &mut now, rate, 20) <= WANTED);
            assert!((pace.limit as f64 / rate - 0.1).abs() < 0.001, "{rate}: {}", pace.limit);
            // Half as fast, the next is too long, and the one behind it is not.
            assert!(run(&mut pace, &mut now, rate / 2.0, 1) < 2 * WANTED + WANTED / 100);
            assert!(run(&mut pace, &mut now, rate / 2.0, 5) <= WANTED);
            assert!(pace.submitted.longest > WANTED && pace.submitted.count == 26);
        }
    }

    /// Nothing waits for ever for a submission that the device, lost meanwhile, has refused.
    #[test]
    fn waiting_for_what_was_refused_ends() {
        let candidate = pollster::block_on(candidates()).into_iter().next().expect("an adapter");
        let gpu = pollster::block_on(Gpu::open(candidate)).unwrap();
        let commands = || gpu.device.create_command_encoder(&Default::default()).finish();
        let index = gpu.submissions.submit(commands(), 1).unwrap();
        gpu.submissions.wait(index).unwrap();
        gpu.lose_at(1);
        let refused = gpu.submissions.submit(commands(), 1).unwrap();
        assert_eq!(gpu.submissions.wait(refused).unwrap_err().code(), "E_DEVICE_LOST");
    }

    /// Work that ended unseen is no measure of the speed, nor is time in which the device had nothing to do.
    #[test]
    fn only_what_was_waited_for_is_measured() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(start);
        let limit = pace.limit;
        pace.start(0, limit, start);
        pace.end();
        pace.settle(start + second, false);
        assert_eq!((pace.limit, pace.submitted.longest), (limit, Duration::ZERO));
        pace.start(1, limit, start + 5 * second);
        pace.end();
        pace.settle(start + 5 * second + WANTED / 2, true);
        assert_eq!(pace.limit, 2 * limit);
        // Two that were waited for together count together.
        pace.start(2, limit, start + 6 * second);
        pace.start(3, limit, start + 6 * second);
        assert_eq!(pace.oldest_beyond(limit), None);
        assert_eq!(pace.oldest_beyond(3 * limit), Some(2));
        pace.end();
        pace.end();
        pace.settle(start + 6 * second + 2 * WANTED, true);
        assert_eq!((pace.limit, pace.submitted.longest), (limit, WANTED));
    }
}
