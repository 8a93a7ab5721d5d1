//! `qllama quantize`.

use std::path::PathBuf;

use pollster::block_on;
use qllama::internals::{Event, Folder, QuantizeOptions, quantize};
use qllama::{Error, Result};

use crate::amounts::progress_bar;
use crate::amounts::size;
use crate::out::{self, say};

/// Write a checkpoint with 4-bit or 8-bit weights (safetensors, compressed-tensors' pack-quantized layout).
///
/// Packed are the matrices of linear layers; embeddings, norms and the like stay as they are. Scales are chosen by
/// least squared error, which is printed for each matrix. Until it is complete, the result is called DST.part; the
/// same command goes on where an interrupted one stopped.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the checkpoint with float weights.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Folder to write; it must not be there, or be empty.
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// Bits a weight.
    #[arg(long, default_value = "4", value_parser = ["4", "8"], value_name = "4|8")]
    bits: String,
    /// Neighbours of a row that share a scale; `channel` is the whole row.
    #[arg(long, default_value = "32", value_parser = ["32", "64", "128", "channel"], value_name = "32|64|128|channel")]
    group_size: String,
    /// Give each group a zero point of its own.
    #[arg(long)]
    asymmetric: bool,
    /// Leave a module as it is: its name (`lm_head`), or `re:` and a pattern that its name begins with
    /// (`re:vision_model`). May be given several times.
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let group_size = match args.group_size.as_str() {
        "channel" => None,
        number => Some(number.parse().map_err(|_| Error::Input { reason: format!("--group-size {number}") })?),
    };
    let bits = args.bits.parse().map_err(|_| Error::Input { reason: format!("--bits {}", args.bits) })?;
    let options = QuantizeOptions { bits, group_size, symmetric: !args.asymmetric, ignore: args.ignore };
    let source = Box::new(Folder::open(&args.source)?);
    let bar = progress_bar("quantizing");
    let print = |json: serde_json::Value, line: String| {
        bar.suspend(|| if args.json { say!("{json}") } else { say!("{line}") });
    };
    let done = block_on(quantize(source, &args.target, &options, &mut |event| match event {
        Event::Progress { bytes, total } => {
            bar.set_length(total);
            bar.set_position(bytes);
        }
        Event::Resumed { tensors } => {
            // The time left is reckoned from here on.
            bar.reset_eta();
            bar.suspend(|| {
                out::note(format_args!("going on where an earlier run stopped: {tensors} tensors are done"))
            });
        }
        Event::Anew => {
            bar.reset_eta();
            bar.suspend(|| {
                out::note(format_args!("an earlier run had another source or other options: starting anew"))
            });
        }
        Event::Packed(p) => print(
            serde_json::json!({ "packed": p.name, "rows": p.rows, "cols": p.cols, "relative_error": p.relative_error() }),
            format!("{:9.3e}  {} [{}, {}]", p.relative_error(), p.name, p.rows, p.cols),
        ),
        Event::Kept(k) => print(
            serde_json::json!({ "kept": k.name, "reason": k.reason }),
            format!("unchanged  {}: {}", k.name, k.reason),
        ),
    }));
    bar.finish_and_clear();
    let done = done?;
    if args.json {
        let json = serde_json::json!({ "relative_error": done.relative_error(), "packed_tensors": done.packed.len(),
            "kept_tensors": done.kept.len(), "source_bytes": done.source_bytes, "written_bytes": done.written_bytes,
            "files": done.files });
        say!("{json}");
    } else {
        say!("{:9.3e}  all {} packed matrices (squared error over squares)", done.relative_error(), done.packed.len());
        let (before, after) = (size(done.source_bytes), size(done.written_bytes));
        say!("{before} -> {after} in {} file(s)", done.files.len());
    }
    Ok(())
}
