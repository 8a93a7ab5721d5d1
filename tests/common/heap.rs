//! An allocator that counts, for test programs that bound what the library allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The system's allocator with its books, and with a limit where a test sets one.
pub struct Counted;

thread_local! {
    /// Bytes in all that this thread may bring the heap to.
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// From how many bytes on an allocation of this thread is large, those so far, and the one that fails; 0 for none.
    static LARGE: Cell<(usize, u64, u64)> = const { Cell::new((usize::MAX, 0, 0)) };
}

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's, with the arguments that came, or fails.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (least, count, failing) = LARGE.get();
        if layout.size() >= least {
            LARGE.set((least, count + 1, failing));
            if count + 1 == failing {
                return std::ptr::null_mut();
            }
        }
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if now > LIMIT.get() {
            NOW.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The heap is counted for one test at a time: each holds this from its start.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Bytes on the heap.
pub fn held() -> u64 {
    NOW.load(Ordering::Relaxed) as u64
}

/// What `run` returns, and the most bytes that the heap grew by meanwhile: of all threads together.
pub fn growth<T>(run: impl FnOnce() -> T) -> (T, u64) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let out = run();
    (out, (PEAK.load(Ordering::Relaxed) - before) as u64)
}

/// Runs something with an allocator that refuses this thread's `failing`th allocation of at least `least` bytes, or none
/// where that is 0; what it returned, and the number of them.
pub fn refusing<T>(least: usize, failing: u64, run: impl FnOnce() -> T) -> (T, u64) {
    LARGE.set((least, 0, failing));
    let out = run();
    let (_, count, _) = LARGE.replace((usize::MAX, 0, 0));
    (out, count)
}

/// Runs something with an allocator that has no more than `bytes` for this thread.
pub fn within<T>(bytes: u64, run: impl FnOnce() -> T) -> T {
    LIMIT.set(NOW.load(Ordering::Relaxed).saturating_add(bytes as usize));
    let out = run();
    LIMIT.set(usize::MAX);
    out
}
