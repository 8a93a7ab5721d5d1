//! `qllama quantize`.

use qllama::files::source::Folder;
use qllama::quantize::{Event, QuantizeOptions, quantize};
use qllama::{Error, Result};

use crate::QuantizeArgs;
use crate::common::progress_bar;
use crate::info::size;

pub async fn run(args: QuantizeArgs) -> Result<()> {
    let group_size = match args.group_size.as_str() {
        "channel" => None,
        number => Some(number.parse().map_err(|_| Error::Input { reason: format!("--group-size {number}") })?),
    };
    let bits = args.bits.parse().map_err(|_| Error::Input { reason: format!("--bits {}", args.bits) })?;
    let options = QuantizeOptions { bits, group_size, symmetric: !args.asymmetric, ignore: args.ignore };
    let source = Box::new(Folder::open(&args.source)?);
    let bar = progress_bar("quantizing");
    let print = |json: serde_json::Value, line: String| {
        bar.suspend(|| if args.json { println!("{json}") } else { println!("{line}") });
    };
    let done = quantize(source, &args.target, &options, &mut |event| match event {
        Event::Progress { bytes, total } => {
            bar.set_length(total);
            bar.set_position(bytes);
        }
        Event::Resumed { tensors } => {
            // The time left is reckoned from here on.
            bar.reset_eta();
            bar.suspend(|| eprintln!("going on where an earlier run stopped: {tensors} tensors are done"));
        }
        Event::Packed(p) => print(
            serde_json::json!({ "packed": p.name, "rows": p.rows, "cols": p.cols, "relative_error": p.relative_error() }),
            format!("{:9.3e}  {} [{}, {}]", p.relative_error(), p.name, p.rows, p.cols),
        ),
        Event::Kept(k) => print(
            serde_json::json!({ "kept": k.name, "reason": k.reason }),
            format!("unchanged  {}: {}", k.name, k.reason),
        ),
    })
    .await;
    bar.finish_and_clear();
    let done = done?;
    if args.json {
        let json = serde_json::json!({ "relative_error": done.relative_error(), "packed_tensors": done.packed.len(),
            "kept_tensors": done.kept.len(), "source_bytes": done.source_bytes, "written_bytes": done.written_bytes,
            "files": done.files });
        println!("{json}");
    } else {
        println!(
            "{:9.3e}  all {} packed matrices (squared error over squares)",
            done.relative_error(),
            done.packed.len()
        );
        let (before, after) = (size(done.source_bytes), size(done.written_bytes));
        println!("{before} -> {after} in {} file(s)", done.files.len());
    }
    Ok(())
}
