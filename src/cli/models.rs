//! `qllama models`.

use std::path::Path;

use qllama::{Error, Result};

use crate::amounts::size;
use crate::hub::{Cache, Kept, Name};
use crate::out::{self, say};

/// List the models that were downloaded from the Hugging Face hub, or remove one.
///
/// They lie in the cache that Python's huggingface_hub uses, too: HF_HOME names its folder, ~/.cache/huggingface otherwise.
/// `--model org/name` brings a model there.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  qllama models\n  qllama models remove OpenGVLab/InternVL-14B-224px")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Delete all that is kept of a model.
    Remove {
        /// Its name, as `qllama models` lists it.
        #[arg(value_name = "ORG/NAME")]
        name: String,
    },
}

pub fn run(args: Args) -> Result<()> {
    let cache = Cache::of_environment()?;
    match args.command {
        Some(Command::Remove { name }) => remove(&cache, &name),
        None => {
            let all = cache.all()?;
            all.iter().for_each(|kept| if args.json { print_json(kept) } else { print(kept) });
            if all.is_empty() {
                out::note(format_args!("qllama: no models are in the cache; `--model org/name` downloads one"));
            }
            Ok(())
        }
    }
}

fn remove(cache: &Cache, name: &str) -> Result<()> {
    let wrong = || Error::Input { reason: format!("expected a name as org/name, found {:?}", out::name(name)) };
    let found = Name::parse(Path::new(name)).filter(|found| found.repository == name).ok_or_else(wrong)?;
    match cache.remove(&found)? {
        Some(bytes) => {
            say!("removed {name}: {}", size(bytes));
            Ok(())
        }
        None => Err(Error::Input { reason: format!("{name} is not in the cache; `qllama models` lists what is") }),
    }
}

/// `main` or a commit's first letters.
fn short((commit, revisions): (&String, &Vec<String>)) -> String {
    let first = commit.chars().take(8).collect();
    if revisions.is_empty() { first } else { format!("{} ({first})", revisions.join(", ")) }
}

fn print(kept: &Kept) {
    let revisions: Vec<String> = kept.revisions.iter().map(short).collect();
    let partial = match kept.incomplete {
        0 => String::new(),
        n => format!("  {n} unfinished, which the next use goes on with"),
    };
    say!("{:>10}  {}  {}{partial}", size(kept.bytes), out::name(&kept.name), revisions.join(", "));
}

fn print_json(kept: &Kept) {
    let Kept { name, bytes, revisions, incomplete } = kept;
    say!("{}", serde_json::json!({ "name": name, "bytes": bytes, "revisions": revisions, "incomplete": incomplete }));
}
