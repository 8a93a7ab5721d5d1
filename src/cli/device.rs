//! `--adapter` and `--list-adapters`.

use qllama::{Adapter, DeviceInfo, Result, adapters};

use crate::out::say;

/// Prints the adapters, numbered as `--adapter` takes them.
pub fn list() -> Result<()> {
    for (index, info) in found().iter().enumerate() {
        say!("{index}: {}", describe(info));
    }
    say!("cpu: the CPU executor (slow; no GPU and no driver needed)");
    Ok(())
}

/// The adapters of this machine.
pub fn found() -> Vec<DeviceInfo> {
    pollster::block_on(adapters())
}

/// What `--adapter` names; the best without it.
pub fn adapter(argument: Option<&str>) -> Adapter {
    argument.map_or(Adapter::Best, Adapter::from)
}

/// One line about an adapter.
pub fn describe(info: &DeviceInfo) -> String {
    format!(
        "{} ({}{}, bindings up to {} MiB)",
        info.name,
        info.backend,
        if info.software { ", software" } else { "" },
        info.max_binding_bytes >> 20
    )
}

/// Without a desktop session, Mesa's layer that puts the desktop's GPU first complains on standard error about each
/// instance that is made. There is no desktop's GPU then, so the layer is left out, unless it was told what to select.
pub fn silence_device_select() {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !set("XDG_RUNTIME_DIR") && !set("MESA_VK_DEVICE_SELECT") {
        // SAFETY: main calls this before it starts a thread, so nothing reads the environment at the same time.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
