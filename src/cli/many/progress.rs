//! How far a run is: a bar on a terminal, a line now and then elsewhere; each failure, and a summary.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qllama::Error;

use super::list::Counts;
use super::names::count;
use crate::out;

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(30);
/// Failures that are told one by one; the others are counted.
const TOLD: usize = 100;
/// Failures that the summary names.
const NAMED: usize = 3;

pub struct Progress {
    counts: Arc<Counts>,
    bar: Option<ProgressBar>,
    began: Instant,
    told: Instant,
    /// What is done to a picture: `captioned`.
    verb: &'static str,
    ready: usize,
    failed: usize,
    names: Vec<String>,
}

impl Progress {
    /// `verb` says what is done to a picture. `printing`: results go to standard output, where a bar would stand between
    /// them.
    pub fn new(counts: Arc<Counts>, verb: &'static str, printing: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal() && !(printing && std::io::stdout().is_terminal());
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos} of {len}{msg}").expect("the template is right");
            ProgressBar::new(0).with_style(style)
        });
        let now = Instant::now();
        Progress { counts, bar, began: now, told: now, verb, ready: 0, failed: 0, names: Vec::new() }
    }

    /// Counts from now on: the model is loaded.
    pub fn begin(&mut self) {
        (self.began, self.told) = (Instant::now(), Instant::now());
    }

    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Pictures that something became of.
    pub fn done(&self) -> usize {
        self.ready + self.failed
    }

    /// Counts what became of a picture, and tells of a failure.
    pub fn count(&mut self, name: &str, result: std::result::Result<(), &Error>) {
        match result {
            Ok(()) => self.ready += 1,
            Err(error) => {
                self.failed += 1;
                if self.names.len() < NAMED {
                    self.names.push(out::name(name).into_owned());
                }
                let (text, code) = (error.to_string(), error.code());
                let text = out::name(&text);
                match self.failed {
                    ..=TOLD => self.tell(&format!("qllama: {text} [{code}]")),
                    n if n == TOLD + 1 => self.tell("qllama: more pictures failed; they are counted"),
                    _ => {}
                }
            }
        }
    }

    /// Shows how far the run is.
    pub fn show(&mut self) {
        let done = self.done();
        let found = self.counts.found.load(Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        let rate = done as f64 / seconds;
        let left = match self.counts.complete.load(Ordering::Acquire) && done > 0 {
            true => format!(", {} left", duration((found - done) as f64 / rate)),
            false => String::new(),
        };
        let failed = if self.failed > 0 { format!(", failed {}", count(self.failed)) } else { String::new() };
        let state = format!(", {rate:.1} a second{left}{failed}");
        if let Some(bar) = &self.bar {
            bar.set_length(found as u64);
            bar.set_position(done as u64);
            bar.set_message(state);
        } else if self.told.elapsed() > EVERY {
            self.told = Instant::now();
            out::note(format_args!("qllama: {} of {}{state}", count(done), count(found)));
        }
    }

    fn tell(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| out::note(format_args!("{line}"))),
            None => out::note(format_args!("{line}")),
        }
    }

    /// `captioned 9,998, skipped 3, failed 2: a.png, b.png`, in one line.
    pub fn summary(&self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let mut text = format!("{} {}", self.verb, count(self.ready));
        let skipped = self.counts.skipped.load(Ordering::Relaxed);
        if skipped > 0 {
            text += &format!(", {} before {}", self.verb, count(skipped));
        }
        let passed_over = self.counts.passed_over.load(Ordering::Relaxed);
        if passed_over > 0 {
            text += &format!(", passed over {} other files", count(passed_over));
        }
        if self.failed > 0 {
            let more = if self.failed > self.names.len() { ", …" } else { "" };
            text += &format!(", failed {}: {}{more}", count(self.failed), self.names.join(", "));
        }
        text
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}
