//! The command line: parses arguments, calls the library, prints.

mod amounts;
mod bench;
mod caption;
mod check;
mod common;
mod device;
mod embed;
mod evaluate;
mod finetune;
mod forward;
mod generate;
mod generation;
mod gradients;
mod hub;
mod index;
mod info;
mod many;
mod match_texts;
mod models;
mod out;
mod quantize;
mod tensors;
mod tokenize;
mod verdict;
mod whole;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use qllama::internals::panic_in_words;
use qllama::{Error, Result};

#[derive(Parser)]
#[command(
    name = "qllama",
    version,
    about = "Caption, match and search pictures with InternVL's QLLaMA on any GPU, or none",
    after_help = "Without --model, the demo model inside this program is used: it names emoji pictures.\n\n\
        Examples:\n  qllama caption picture.png\n  \
        qllama caption --model InternVL-14B-224px --num-beams 5 --min-new-tokens 8 photo.jpg\n  \
        qllama match --image cat.png dog.png --text cat dog\n  \
        qllama info --model InternVL-14B-224px"
)]
struct Cli {
    /// List the adapters of this machine, and end.
    #[arg(long, global = true)]
    list_adapters: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Caption(caption::Args),
    Match(match_texts::Args),
    Embed(embed::Args),
    Index(index::build::Args),
    Search(index::search::Args),
    Duplicates(index::duplicates::Args),
    Generate(generate::Args),
    Finetune(finetune::Args),
    Forward(forward::Args),
    Gradients(gradients::Args),
    Tokenize(tokenize::Args),
    Evaluate(evaluate::Args),
    Models(models::Args),
    Info(info::Args),
    Check(check::Args),
    Bench(bench::Args),
    Quantize(quantize::Args),
}

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    device::silence_device_select();
    say_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            out::checked(error.print());
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(cli, started) {
        Ok(code) => code,
        Err(error) => {
            let hint = common::hint(&error).map(|hint| format!("; {hint}")).unwrap_or_default();
            out::note(format_args!("qllama: {error}{hint} [{}]", error.code()));
            ExitCode::FAILURE
        }
    }
}

/// A panic is this program's own bug: one line that says so, with no path of the machine that built it. With RUST_BACKTRACE
/// set, what Rust prints.
fn say_panics() {
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        let bug = "this is a bug in qllama";
        std::panic::set_hook(Box::new(move |info| out::note(format_args!("qllama: {bug}: {}", panic_in_words(info)))));
    }
}

fn run(cli: Cli, started: std::time::Instant) -> Result<ExitCode> {
    if cli.list_adapters {
        return device::list().map(|()| ExitCode::SUCCESS);
    }
    let done = match cli.command {
        Some(Command::Caption(args)) => return caption::run(args),
        Some(Command::Match(args)) => match_texts::run(args),
        Some(Command::Embed(args)) => embed::run(args),
        Some(Command::Index(args)) => return index::build::run(args),
        Some(Command::Search(args)) => index::search::run(args),
        Some(Command::Duplicates(args)) => index::duplicates::run(args),
        Some(Command::Generate(args)) => generate::run(args),
        Some(Command::Finetune(args)) => finetune::run(args),
        Some(Command::Forward(args)) => forward::run(args),
        Some(Command::Gradients(args)) => gradients::run(args),
        Some(Command::Tokenize(args)) => tokenize::run(args),
        Some(Command::Evaluate(args)) => evaluate::run(args),
        Some(Command::Models(args)) => models::run(args),
        Some(Command::Info(args)) => info::run(args),
        Some(Command::Check(args)) => check::run(args),
        Some(Command::Bench(args)) => bench::run(args, started),
        Some(Command::Quantize(args)) => quantize::run(args),
        None => Err(Error::Input { reason: "no subcommand was given; `qllama --help` lists them".into() }),
    };
    done.map(|()| ExitCode::SUCCESS)
}
