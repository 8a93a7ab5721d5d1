//! Waiting for some time, natively and in a browser.

use std::time::Duration;

/// Waits; natively the thread does.
#[cfg(not(target_arch = "wasm32"))]
pub async fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits.
#[cfg(target_arch = "wasm32")]
pub async fn pause(time: Duration) {
    gloo_timers::future::sleep(time).await;
}
