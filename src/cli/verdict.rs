//! `--check`, and what is known of an adapter by earlier runs.

use pollster::block_on;
use qllama::{Check, DeviceInfo, NotesFolder};

/// What `--check` takes.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum CheckArgument {
    /// What was not checked before on this adapter, driver and version.
    On,
    /// Nothing.
    Off,
    /// Everything, whatever was found before.
    Again,
}

impl From<CheckArgument> for Check {
    fn from(argument: CheckArgument) -> Check {
        match argument {
            CheckArgument::On => Check::On,
            CheckArgument::Off => Check::Off,
            CheckArgument::Again => Check::Again,
        }
    }
}

/// What was found to be wrong with an adapter earlier.
pub fn known(info: &DeviceInfo) -> Option<String> {
    block_on(qllama::internals::kept_report(info, &NotesFolder::of_user()?))
}
