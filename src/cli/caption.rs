//! `qllama caption`.

use std::io::Write;

use qllama::Result;
use qllama::generate::session::GenerateOptions;
use qllama::model::Model;

use crate::CaptionArgs;
use crate::common::{Pictures, load, open};

pub async fn run(args: CaptionArgs) -> Result<()> {
    let mut options = GenerateOptions {
        num_beams: args.num_beams,
        max_new_tokens: args.max_new_tokens,
        min_new_tokens: args.min_new_tokens,
        kv_cache: args.kv_cache.into(),
        ..Default::default()
    };
    options.check()?;
    let opened = open(&args.common).await?;
    let text = &opened.config.text;
    options.eos_token_ids = text.eos_token_ids.clone();
    options.check()?;
    let prompt = opened.tokenizer()?.encode_prompt(&args.prompt);
    options.check_for(text, text.num_query_token + prompt.len())?;
    let pictures = Pictures::open(&opened, &args.images, args.ignore_orientation)?;
    let model = load(&args.common, opened).await?;
    for picture in pictures.iter() {
        let (name, pixels) = picture?;
        let vision = model.vision(&pixels).await?;
        let crossed = model.cross_states(&vision).await?;
        drop(vision);
        let mut out = std::io::stdout().lock();
        // Text appears as it is made, where greedy search makes it and a person reads it.
        let live = !args.common.json && args.num_beams == 1;
        if live && args.images.len() > 1 {
            let _ = write!(out, "{name}: ");
        }
        let mut text = model.tokenizer()?.decode_stream();
        let generated = model
            .generate(Some(&crossed), &[&prompt], &options, &mut |token| {
                if let (true, Some((_, id))) = (live, token)
                    && !options.eos_token_ids.contains(&id)
                {
                    let _ = write!(out, "{}", text.push(id));
                    let _ = out.flush();
                }
                true
            })
            .await?;
        if live {
            let _ = write!(out, "{}", text.finish());
        }
        let ids: Vec<u32> =
            generated[0][0].ids.iter().copied().filter(|id| !options.eos_token_ids.contains(id)).collect();
        print(&model, &args, &name, &ids, live, &mut out)?;
    }
    Ok(())
}

fn print(model: &Model, args: &CaptionArgs, name: &str, ids: &[u32], live: bool, out: &mut impl Write) -> Result<()> {
    let text = model.tokenizer()?.decode(ids);
    let _ = if args.common.json {
        writeln!(out, "{}", serde_json::json!({ "image": name, "text": text, "ids": ids }))
    } else if live {
        writeln!(out)
    } else if args.images.len() > 1 {
        writeln!(out, "{name}: {text}")
    } else {
        writeln!(out, "{text}")
    };
    Ok(())
}
