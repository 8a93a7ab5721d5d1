//! `qllama tokenize`.

use qllama::files::gguf::Gguf;
use qllama::text::Tokenizer;
use qllama::{Error, Result};

use crate::TokenizeArgs;
use crate::common::{Files, files};

pub async fn run(args: TokenizeArgs) -> Result<()> {
    let missing = |file: &str, reason: &str| Error::Io { file: file.into(), reason: reason.into() };
    let tokenizer = match files(&args.common)? {
        Files::Folder(source) => {
            let bytes = qllama::files::source::read_small(&*source, "tokenizer.model", 32 << 20)
                .await?
                .ok_or_else(|| missing("tokenizer.model", "not in the model's folder"))?;
            Tokenizer::from_bytes("tokenizer.model", &bytes)?
        }
        Files::Gguf(source, name) => {
            Gguf::open(&*source, &name).await?.tokenizer.ok_or_else(|| missing(&name, "it holds no tokenizer"))?
        }
    };
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
