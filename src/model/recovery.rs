//! What a model does when its device is lost: it opens one again, loads its weights again, and runs the call again.
//!
//! A call is run again from its start: that gives the same numbers to the bit, which a prefill over what was written so
//! far would not, and it takes as long as the call had taken. Who called is told nothing twice. Caches that callers hold
//! are made again by the calls that made them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use async_lock::Mutex;
use web_time::Instant;

use crate::device::Device;
use crate::device::recording::fresh_id;
use crate::device::tensor::Storage;
use crate::error::{Error, Result};
use crate::files::checkpoint::Checkpoint;
use crate::files::peft::AdapterWeights;
use crate::model::calls::Task;
use crate::model::check::{CheckReport, Checks};
use crate::model::network::{Network, OnProgress};

/// Losses in a row, nothing being done between them, that end a call; and those by memory that is short, which another
/// try seldom mends.
const MOST_LOSSES: u32 = 3;
const MOST_SHORTAGES: u32 = 2;

/// Told of when a model goes on after its device was lost.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Recovered {
    /// What the driver said.
    pub reason: String,
    /// The adapter that it goes on with; another one where the old is gone.
    pub adapter: String,
    /// How long it took to open the adapter and to load the weights. What the call had done takes its time again.
    pub seconds: f64,
}

/// Hears of each recovery.
pub(super) type OnRecovered = Box<dyn Fn(&Recovered)>;

/// The adapter in use.
pub(super) struct Learning {
    pub weights: AdapterWeights,
    pub strength: f32,
    /// Whether it is being trained: its numbers lie in buffers then.
    pub trained: bool,
}

impl Learning {
    fn bring(&self, network: &mut Network) -> Result<()> {
        let storage = if self.trained { Storage::Buffer } else { network.device().info().weights };
        network.adapt(self.weights.clone(), self.strength, storage)
    }
}

/// A checkpoint's weights on a device, made again where that is lost.
pub(crate) struct Loaded {
    checkpoint: Rc<Checkpoint>,
    checks: Rc<Checks>,
    id: u32,
    recover: bool,
    on_recovered: Option<OnRecovered>,
    learned: Option<Learning>,
    /// The one in use, or the last one.
    device: RefCell<Device>,
    /// `None` while it is made, and where that failed: the next call tries again.
    network: RefCell<Option<Rc<Network>>>,
    /// Held by who makes the network.
    making: Mutex<()>,
    /// Since something was done.
    losses: Cell<u32>,
    /// Why the network is made again.
    reason: RefCell<Option<String>>,
}

impl Loaded {
    /// Loads the weights.
    ///
    /// # Errors
    /// Those of [`Network::load`]; `E_DEVICE_LOST` where the device is lost, and, unless `recover` is false, again and
    /// again.
    pub(super) async fn load(
        checkpoint: Rc<Checkpoint>,
        checks: Rc<Checks>,
        device: Device,
        recover: bool,
        on_recovered: Option<OnRecovered>,
        on_progress: OnProgress<'_>,
    ) -> Result<Loaded> {
        let loaded = Loaded {
            checkpoint,
            checks,
            id: fresh_id(),
            recover,
            on_recovered,
            learned: None,
            device: RefCell::new(device),
            network: RefCell::default(),
            making: Mutex::new(()),
            losses: Cell::new(0),
            reason: RefCell::default(),
        };
        loaded.network(on_progress).await?;
        Ok(loaded)
    }

    /// The device in use, or the last one.
    pub(super) fn device(&self) -> Device {
        self.device.borrow().clone()
    }

    /// What tells this model from all others.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The adapter in use.
    pub(super) fn learned(&self) -> Option<&Learning> {
        self.learned.as_ref()
    }

    /// Uses an adapter, or none, from now on; where that fails, the one before stays.
    pub(super) fn learn(&mut self, learned: Option<Learning>) -> Result<()> {
        let adapt = |network: &mut Network| match &learned {
            Some(learning) => learning.bring(network),
            None => {
                network.forget();
                Ok(())
            }
        };
        let adapted = match self.network.get_mut().as_mut().and_then(Rc::get_mut) {
            Some(network) => adapt(network),
            // It is made again with the next call.
            None => {
                self.network.take();
                Ok(())
            }
        };
        match adapted {
            Err(error) if self.recover && is_loss(&error, self.device.get_mut()) => {
                self.network.take();
                self.count(error)?;
            }
            adapted => adapted?,
        }
        self.learned = learned;
        Ok(())
    }

    /// The network, where it is there.
    pub(super) fn made(&self) -> Option<Rc<Network>> {
        self.network.borrow().clone()
    }

    /// Something was done: losses count from here.
    pub(super) fn progress(&self) {
        self.losses.set(0);
    }

    /// What the check of the device found.
    pub(super) fn check_report(&self) -> CheckReport {
        self.checks.report(&self.device().info())
    }

    /// Runs `call`, which does `tasks`, again where the device is lost meanwhile.
    ///
    /// # Errors
    /// Those of `call`; `E_ADAPTER` where the device computes wrongly what the tasks need; `E_DEVICE_LOST` and `E_OOM` where
    /// it is lost again and again.
    pub(crate) async fn run<T>(&self, tasks: &[Task], mut call: impl AsyncFnMut(&Network) -> Result<T>) -> Result<T> {
        loop {
            let network = self.network(&mut |_| {}).await?;
            let checked = self.checks.ensure(network.device(), tasks, &mut |_| {}).await;
            let called = match checked {
                Ok(()) => call(&network).await,
                Err(error) => Err(error),
            };
            let error = match called {
                Ok(value) => {
                    self.progress();
                    return Ok(value);
                }
                Err(error) => error,
            };
            if !self.recover || !is_loss(&error, network.device()) {
                return Err(error);
            }
            // Another call may have seen this loss before.
            if self.made().is_some_and(|made| Rc::ptr_eq(&made, &network)) {
                self.network.take();
                self.count(error)?;
            }
        }
    }

    /// The network, made again where it is not there.
    async fn network(&self, on_progress: OnProgress<'_>) -> Result<Rc<Network>> {
        if let Some(network) = self.made() {
            return Ok(network);
        }
        let _making = self.making.lock().await;
        if let Some(network) = self.made() {
            return Ok(network);
        }
        let started = Instant::now();
        let network = Rc::new(self.make(on_progress).await?);
        self.network.replace(Some(network.clone()));
        if let (Some(reason), Some(tell)) = (self.reason.take(), &self.on_recovered) {
            let adapter = network.device().info().name;
            tell(&Recovered { reason, adapter, seconds: started.elapsed().as_secs_f64() });
        }
        Ok(network)
    }

    /// Loads the weights onto the device, or, where that is lost, onto what takes its place.
    async fn make(&self, on_progress: OnProgress<'_>) -> Result<Network> {
        // Who waits for a number of bytes is not told of those that are read again.
        let mut furthest = 0;
        loop {
            let mut device = self.device();
            if self.recover {
                device = device.successor().await.map_err(|error| self.failed("opening it again", error))?;
                self.device.replace(device.clone());
            }
            let on_progress: OnProgress = &mut |progress| {
                if progress.bytes > furthest {
                    furthest = progress.bytes;
                    on_progress(progress);
                }
            };
            match self.make_on(&device, on_progress).await {
                Ok(network) => return Ok(network),
                Err(error) if self.recover && is_loss(&error, &device) => self.count(error)?,
                Err(error) => return Err(self.failed("loading the weights again", error)),
            }
        }
    }

    async fn make_on(&self, device: &Device, on_progress: OnProgress<'_>) -> Result<Network> {
        let mut network = Network::load(self.checkpoint.clone(), device, self.id, on_progress).await?;
        if let Some(learning) = &self.learned {
            learning.bring(&mut network)?;
        }
        Ok(network)
    }

    /// Counts a loss, and gives it as the error where there were too many.
    fn count(&self, error: Error) -> Result<()> {
        let losses = self.losses.get() + 1;
        self.losses.set(losses);
        let most = if matches!(error, Error::OutOfMemory { .. }) { MOST_SHORTAGES } else { MOST_LOSSES };
        let reason = match &error {
            Error::DeviceLost { reason } => reason.clone(),
            other => other.to_string(),
        };
        if losses < most {
            self.reason.replace(Some(reason));
            return Ok(());
        }
        self.losses.set(0);
        self.reason.take();
        Err(match error {
            Error::OutOfMemory { .. } => error,
            _ => Error::DeviceLost {
                reason: format!(
                    "{reason}; it was opened again {} times on {}, and lost each time before the call got any further",
                    losses - 1,
                    self.device().info().name
                ),
            },
        })
    }

    /// The error of a recovery that failed; of a first load, its own.
    fn failed(&self, what: &str, error: Error) -> Error {
        match (self.reason.borrow().as_ref(), error) {
            (_, error @ (Error::OutOfMemory { .. } | Error::Aborted)) => error,
            (Some(reason), error) => Error::DeviceLost { reason: format!("{reason}; {what} failed: {error}") },
            (None, error) => error,
        }
    }
}

/// Whether an error is the sign of a lost device.
pub(super) fn is_loss(error: &Error, device: &Device) -> bool {
    let sign = matches!(error, Error::DeviceLost { .. } | Error::OutOfMemory { .. } | Error::Gpu { .. });
    sign && device.lost().is_some()
}
