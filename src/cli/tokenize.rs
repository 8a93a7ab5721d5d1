//! `qllama tokenize`.

use qllama::text::Tokenizer;
use qllama::{Error, Result};

use crate::TokenizeArgs;
use crate::cli::source;

pub async fn run(args: TokenizeArgs) -> Result<()> {
    let source = source(&args.common)?;
    let bytes = qllama::checkpoint::read_small(&*source, "tokenizer.model", 32 << 20)
        .await?
        .ok_or_else(|| Error::Io { file: "tokenizer.model".into(), reason: "not in the model's folder".into() })?;
    let tokenizer = Tokenizer::from_bytes("tokenizer.model", &bytes)?;
    for text in &args.texts {
        let ids = tokenizer.encode_prompt(text);
        let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
        let decoded = tokenizer.decode(&ids);
        if args.common.json {
            println!("{}", serde_json::json!({ "ids": ids, "pieces": pieces, "text": decoded }));
        } else {
            println!("ids     {}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
            println!("pieces  {}", pieces.join(" "));
            println!("text    {decoded}");
        }
    }
    Ok(())
}
