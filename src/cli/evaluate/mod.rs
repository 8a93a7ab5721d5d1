//! `qllama evaluate`: the figures that the published tables have, of data sets on this machine.

mod annotations;
mod captions;
mod classify;
mod pictures;
mod published;
mod retrieval;
mod scores;
mod templates;
mod tokens;

use qllama::Result;

/// Compute the figures of the published tables: captions, retrieval, classification.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Captions(captions::Args),
    Retrieval(retrieval::Args),
    Classify(classify::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Captions(args) => captions::run(args),
        Command::Retrieval(args) => retrieval::run(args),
        Command::Classify(args) => classify::run(args),
    }
}
