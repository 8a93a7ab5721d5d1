//! `qllama check`.

use pollster::block_on;
use qllama::{CheckReport, Result, Tried};

use crate::common::Common;
use crate::out::say;
use crate::verdict::CheckArgument;

/// Compare every kernel that a model will use on an adapter with what it should compute, and print a line each.
///
/// Loading a model does the same once for each adapter, driver and version of this program. A kernel that computes wrongly is
/// left out, and another takes its place; where there is none, this fails, as loading does.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let json = args.common.json;
    // This is what the command is for: whatever was found before.
    let mut common = args.common;
    common.check = CheckArgument::Again;
    let report = block_on(common.open()?.check_async(&mut |tried| tell(tried, json)))?;
    if json {
        say!("{}", summary(&report));
    } else {
        summarise(&report);
    }
    report.usable()
}

fn tell(tried: &Tried, json: bool) {
    let Tried { pipeline, shapes, outcome, seconds } = tried;
    if json {
        let (error, fault) = (outcome.as_ref().ok(), outcome.as_ref().err());
        let line = serde_json::json!({ "kernel": pipeline, "shapes": shapes, "right": outcome.is_ok(), "error": error,
            "fault": fault, "seconds": seconds });
        return say!("{line}");
    }
    let milliseconds = 1000.0 * seconds;
    match outcome {
        Ok(error) => say!("right  {error:7.1e}  {milliseconds:7.1} ms  {pipeline}  {shapes}"),
        Err(fault) => say!("WRONG           {milliseconds:7.1} ms  {pipeline}  {shapes}: {fault}"),
    }
}

fn summary(report: &CheckReport) -> serde_json::Value {
    let wrong: Vec<_> = report.wrong.iter().map(|(k, f)| serde_json::json!({ "kernel": k, "fault": f })).collect();
    serde_json::json!({ "adapter": report.adapter, "backend": report.backend, "driver": report.driver,
        "tried": report.tried.len(), "wrong": wrong, "needed": report.needed })
}

fn summarise(report: &CheckReport) {
    let CheckReport { adapter, backend, driver, tried, .. } = report;
    let seconds: f64 = tried.iter().map(|t| t.seconds).sum();
    match report.text() {
        Some(text) => say!("{text}"),
        None if tried.is_empty() => say!("{adapter}: nothing to check"),
        None => say!("{adapter} ({backend}, {driver}): all {} right, in {seconds:.2} s", tried.len()),
    }
}
