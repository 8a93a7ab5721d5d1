//! `qllama tokenize`.

use qllama::Result;

use crate::common::Common;
use crate::out::say;

/// Show the ids, the pieces and the decoded text of texts; needs no weights.
#[derive(clap::Args)]
pub struct Args {
    /// Texts.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let tokenizer = args.common.tokenizer()?;
    for text in &args.texts {
        let ids = tokenizer.encode_prompt(text);
        let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
        let decoded = tokenizer.decode(&ids);
        if args.common.json {
            say!("{}", serde_json::json!({ "ids": ids, "pieces": pieces, "text": decoded }));
        } else {
            say!("ids     {}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
            say!("pieces  {}", pieces.join(" "));
            say!("text    {decoded}");
        }
    }
    Ok(())
}
