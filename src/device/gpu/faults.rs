//! What a device reports of itself: errors that nobody asked for, and its loss.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_channel::oneshot;

#[cfg(target_arch = "wasm32")]
use crate::device::pause::pause;
use crate::error::{Error, Result};
use crate::panics::caught;

const OOM_HINT: &str = "close other programs that use the GPU, keep less there with a memory budget, or take a \
                                   checkpoint with weights of 4 or 8 bits";

/// The faults of one device.
#[derive(Default)]
pub(super) struct Faults {
    /// The first error that the device reported and nobody has been told of.
    fault: Mutex<Option<Error>>,
    /// Why the device was lost.
    lost: Mutex<Option<String>>,
    /// Answers of the device that somebody awaits.
    awaited: Mutex<Vec<Weak<dyn Forgo>>>,
    /// Submissions and waits so far, and which of them loses the device; 0 for none.
    moments: AtomicU64,
    lose_at: AtomicU64,
}

/// An answer that a lost device may never give.
trait Forgo: Send + Sync {
    /// Ends the waiting for it.
    fn forgo(&self);
}

type Slot<T> = Mutex<Option<oneshot::Sender<T>>>;

impl<T: Send> Forgo for Slot<T> {
    fn forgo(&self) {
        self.lock().unwrap().take();
    }
}

impl Faults {
    /// Listens to a device.
    pub(super) fn of(device: &wgpu::Device) -> Arc<Faults> {
        let faults = Arc::new(Faults::default());
        device.on_uncaptured_error(Arc::new({
            let faults = faults.clone();
            move |error: wgpu::Error| {
                let error = match error {
                    wgpu::Error::OutOfMemory { .. } => out_of_memory(),
                    other => Error::Gpu { reason: in_words(&other) },
                };
                faults.fault.lock().unwrap().get_or_insert(error);
            }
        }));
        device.set_device_lost_callback({
            let faults = faults.clone();
            move |reason, message| faults.lose(format!("{reason:?}: {message}"))
        });
        faults
    }

    /// Takes the device as lost; the first reason stays.
    pub(super) fn lose(&self, reason: String) {
        self.lost.lock().unwrap().get_or_insert(reason);
        for awaited in self.awaited.lock().unwrap().drain(..) {
            if let Some(awaited) = awaited.upgrade() {
                awaited.forgo();
            }
        }
    }

    /// What an answer of the device is given to, and the receiver, which ends with nothing where the device is lost.
    pub(super) fn answer<T: Send + 'static>(&self) -> (impl FnOnce(T) + Send + 'static, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let slot: Arc<Slot<T>> = Arc::new(Mutex::new(Some(sender)));
        let forgo: Arc<dyn Forgo> = slot.clone();
        let mut awaited = self.awaited.lock().unwrap();
        awaited.retain(|one| one.strong_count() > 0);
        awaited.push(Arc::downgrade(&forgo));
        drop(awaited);
        if self.lost().is_some() {
            forgo.forgo();
        }
        let give = move |value| {
            if let Some(sender) = slot.lock().unwrap().take() {
                let _ = sender.send(value);
            }
        };
        (give, receiver)
    }

    /// Has the device lost at its `moment`th submission or wait from now on; for tests.
    pub(super) fn lose_at(&self, moment: u64) {
        self.moments.store(0, Ordering::Relaxed);
        self.lose_at.store(moment, Ordering::Relaxed);
    }

    /// Submissions and waits since [`Faults::lose_at`].
    pub(super) fn moments(&self) -> u64 {
        self.moments.load(Ordering::Relaxed)
    }

    /// Counts a submission or a wait that is to come, and loses the device where it was told to.
    pub(super) fn moment(&self, device: &wgpu::Device) {
        if self.moments.fetch_add(1, Ordering::Relaxed) + 1 == self.lose_at.load(Ordering::Relaxed) {
            device.destroy();
        }
    }

    /// Why the device was lost, if it was.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap().clone()
    }

    /// The error that the device reported since the last call, if any.
    pub(super) fn check(&self, device: &wgpu::Device) -> Result<()> {
        let fault = self.fault.lock().unwrap().take();
        if fault.is_some() && self.lost().is_none() {
            // What is made on a lost device is invalid, and complained of before a poll tells of the loss.
            let timeout = Some(Duration::from_secs(1));
            self.guarded_poll(device, wgpu::PollType::Wait { submission_index: None, timeout });
        }
        self.loss().or(fault).map_or(Ok(()), Err)
    }

    /// As [`Faults::check`], behind something that takes `bytes` of memory.
    pub(super) fn check_made(&self, device: &wgpu::Device, bytes: u64) -> Result<()> {
        self.check(device).map_err(|error| match error {
            Error::OutOfMemory { held, hint, .. } => Error::OutOfMemory { asked: bytes, held, hint },
            other => other,
        })
    }

    /// Waits for the word of a loss, which in a browser may come a little behind its first sign.
    ///
    /// # Errors
    /// As [`Faults::check`].
    pub(super) async fn settle(&self, device: &wgpu::Device) -> Result<()> {
        #[cfg(target_arch = "wasm32")]
        for _ in 0..10 {
            self.check(device)?;
            pause(Duration::from_millis(20)).await;
        }
        // A poll that does not wait may not tell of the loss yet.
        #[cfg(not(target_arch = "wasm32"))]
        self.guarded_poll(
            device,
            wgpu::PollType::Wait { submission_index: None, timeout: Some(Duration::from_secs(1)) },
        );
        self.check(device)
    }

    /// Polls the device, which does nothing in a browser, where only awaiting a read waits.
    pub(super) fn poll(&self, device: &wgpu::Device, until: wgpu::PollType) -> Result<()> {
        self.guarded_poll(device, until);
        self.check(device)
    }

    fn guarded_poll(&self, device: &wgpu::Device, until: wgpu::PollType) {
        // A lost device may have refused a submission; who waits for that one learns of the loss from those before it.
        if let Ok(Err(wgpu::PollError::WrongSubmissionIndex(..))) = self.guarded(|| device.poll(until)) {
            let _ = self.guarded(|| device.poll(wgpu::PollType::wait_indefinitely()));
        }
    }

    /// Calls wgpu, which panics where a driver fails in ways that it does not expect: then the device is lost.
    pub(super) fn guarded<T>(&self, call: impl FnOnce() -> T) -> Result<T> {
        caught(call).map_err(|said| {
            self.lose(said);
            self.loss().expect("it was lost just now")
        })
    }

    /// The error of a lost device.
    fn loss(&self) -> Option<Error> {
        let reason = self.lost()?;
        Some(if is_shortage(&reason) { out_of_memory() } else { Error::DeviceLost { reason } })
    }
}

/// Memory ran out; how much was asked for, and is held, others know.
pub(super) fn out_of_memory() -> Error {
    Error::OutOfMemory { asked: 0, held: 0, hint: OOM_HINT.into() }
}

/// Whether it was memory that ran out, by the words of who said so: wgpu takes most such failures as the device's end.
pub(super) fn is_shortage(said: &str) -> bool {
    said.to_ascii_lowercase().contains("memory")
}

/// What an error comes from in the end, on one line.
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
