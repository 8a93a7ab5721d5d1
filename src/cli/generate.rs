//! `qllama generate`.

use std::io::Write;

use qllama::device::Array;
use qllama::files::safetensors::{NamedTensor, write_tensors};
use qllama::generate::beams::{EarlyStopping, PAD};
use qllama::generate::prompt::PromptInputs;
use qllama::generate::session::{GenerateOptions, Generated};
use qllama::model::{Model, Opened};
use qllama::ops::logits::sample::Sampling;
use qllama::text::DecodeStream;
use qllama::{Error, Result};

use crate::common::{Pictures, load, open};
use crate::tensors::{TensorFile, check_outputs};
use crate::{GenerateArgs, Stopping};

pub async fn run(args: GenerateArgs) -> Result<()> {
    let mut options = options(&args)?;
    if let Some(path) = &args.outputs {
        check_outputs(path)?;
    }
    let mut inputs = match &args.inputs {
        Some(path) => from_tensors(TensorFile::read(path)?)?,
        None => PromptInputs::default(),
    };
    let opened = open(&args.common).await?;
    if args.eos_token_id.is_empty() {
        options.eos_token_ids = opened.config.text.eos_token_ids.clone();
        options.check()?;
    }
    complete(&args, &opened, &mut inputs)?;
    inputs.check(&opened.config, &options)?;

    let model = load(&args.common, opened).await?;
    let mut stream = Stream::new(&args, &model);
    let generated = model
        .generate_from(&inputs, &options, &mut |token| {
            match token {
                Some((row, id)) if !options.eos_token_ids.contains(&id) => stream.token(row, id),
                _ => Ok(()),
            }
            // Nobody reads on: there is nothing to go on for.
            .is_ok()
        })
        .await?;
    stream.finish();
    let all: Vec<Generated> = generated.into_iter().flatten().collect();
    if let Some(path) = &args.outputs {
        write_tensors(path, &tensors(&all))?;
    }
    print(&args, &model, &options, &all);
    Ok(())
}

/// The options, checked as far as they can be without a model.
fn options(args: &GenerateArgs) -> Result<GenerateOptions> {
    let fail = |reason: &str| Err(Error::Input { reason: reason.into() });
    let sampling_options = [
        (args.temperature.is_some(), "--temperature"),
        (args.top_k.is_some(), "--top-k"),
        (args.top_p.is_some(), "--top-p"),
        (args.seed.is_some(), "--seed"),
    ];
    if let (false, Some((_, name))) = (args.do_sample, sampling_options.iter().find(|(given, _)| *given)) {
        return fail(&format!("{name} belongs to sampling: give --do-sample too"));
    }
    if args.stream && args.num_beams > 1 {
        return fail("--stream needs --num-beams 1: beam search knows its text only at the end");
    }
    if args.stream && args.num_return_sequences > 1 && !args.common.json {
        return fail("--stream prints one sequence as text: give --json too, or --num-return-sequences 1");
    }
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        min_new_tokens: args.min_new_tokens,
        num_beams: args.num_beams,
        num_return_sequences: args.num_return_sequences,
        length_penalty: args.length_penalty,
        early_stopping: match args.early_stopping {
            Stopping::False => EarlyStopping::False,
            Stopping::True => EarlyStopping::True,
            Stopping::Never => EarlyStopping::Never,
        },
        repetition_penalty: args.repetition_penalty,
        no_repeat_ngram_size: args.no_repeat_ngram_size,
        eos_token_ids: args.eos_token_id.clone(),
        sampling: args.do_sample.then(|| Sampling {
            temperature: args.temperature.unwrap_or(1.0),
            top_k: args.top_k.unwrap_or(50),
            top_p: args.top_p.unwrap_or(1.0),
            seed: args.seed.unwrap_or(0),
        }),
        kv_cache: args.kv_cache.into(),
    };
    options.check()?;
    Ok(options)
}

fn from_tensors(mut file: TensorFile) -> Result<PromptInputs<'static>> {
    let inputs = PromptInputs {
        query_embeds: file.floats("query_embeds")?,
        inputs_embeds: file.floats("inputs_embeds")?,
        input_ids: file.ids("input_ids")?,
        attention_mask: file.mask("attention_mask")?,
        vision_hidden_states: file.floats("vision_hidden_states")?,
        pixel_values: file.pixel_values()?,
        ..Default::default()
    };
    file.note_unused();
    Ok(inputs)
}

/// Adds the picture and the prompt of the command line.
fn complete(args: &GenerateArgs, opened: &Opened, inputs: &mut PromptInputs) -> Result<()> {
    if let Some(path) = &args.image {
        if inputs.pixel_values.is_some() {
            return Err(Error::Input { reason: "--image and pixel_values were given: give one of them".into() });
        }
        let pictures = Pictures::open(opened, std::slice::from_ref(path), args.ignore_orientation)?;
        inputs.pixel_values = pictures.iter().next().transpose()?.map(|(_, pixels)| pixels);
    }
    if let Some(prompt) = &args.prompt {
        let ids: Vec<i64> = opened.tokenizer()?.encode_prompt(prompt).into_iter().map(i64::from).collect();
        inputs.input_ids = Some(Array::new(&[1, ids.len()], ids));
    }
    let pictures = inputs.pixel_values.is_some() || inputs.vision_hidden_states.is_some();
    if args.repeat_time != 1 && !pictures {
        return Err(Error::Input { reason: "--repeat-time is about pictures, and there is none".into() });
    }
    inputs.repeat_time = Some(args.repeat_time);
    let batch = [
        inputs.input_ids.as_ref().map(|a| &a.shape),
        inputs.inputs_embeds.as_ref().map(|a| &a.shape),
        inputs.query_embeds.as_ref().map(|a| &a.shape),
    ];
    let batch = batch.into_iter().flatten().filter_map(|shape| shape.first()).max().copied();
    let batch = batch.or(inputs.pixel_values.as_ref().map(|p| p.batch * args.repeat_time)).unwrap_or(1);
    if args.stream && batch > 1 && !args.common.json {
        let reason = format!("--stream prints one sequence as text, and there are {batch}: give --json too");
        return Err(Error::Input { reason });
    }
    Ok(())
}

/// Prints tokens as they are made, where that was asked for.
struct Stream<'a> {
    model: &'a Model,
    on: bool,
    json: bool,
    /// One a sequence.
    texts: Vec<DecodeStream>,
    begun: bool,
}

impl Stream<'_> {
    fn new<'a>(args: &GenerateArgs, model: &'a Model) -> Stream<'a> {
        Stream { model, on: args.stream, json: args.common.json, texts: Vec::new(), begun: false }
    }

    fn token(&mut self, row: usize, id: u32) -> std::io::Result<()> {
        if !self.on {
            return Ok(());
        }
        let mut text = None;
        if let Ok(tokenizer) = self.model.tokenizer() {
            while self.texts.len() <= row {
                self.texts.push(tokenizer.decode_stream());
            }
            text = Some(self.texts[row].push(id));
        }
        let mut out = std::io::stdout().lock();
        match text {
            text if self.json => writeln!(out, "{}", serde_json::json!({ "sequence": row, "id": id, "text": text }))?,
            Some(text) => write!(out, "{text}")?,
            None if self.begun => write!(out, " {id}")?,
            None => write!(out, "{id}")?,
        }
        self.begun = true;
        out.flush()
    }

    /// The text that was waiting for the rest of a character.
    fn finish(&mut self) {
        if self.on && !self.json {
            let rest = self.texts.first_mut().map(DecodeStream::finish).unwrap_or_default();
            println!("{rest}");
        }
    }
}

/// `sequences` I64 [sequences, longest], padded with 0 behind, and `scores` F32 [sequences].
fn tensors(all: &[Generated]) -> [NamedTensor; 2] {
    let longest = all.iter().map(|g| g.ids.len()).max().unwrap_or(0);
    let padded = |g: &Generated| {
        let ids = g.ids.iter().copied().chain(std::iter::repeat(PAD));
        ids.take(longest).map(i64::from).collect::<Vec<_>>()
    };
    let ids: Vec<i64> = all.iter().flat_map(padded).collect();
    let scores: Vec<f32> = all.iter().map(|g| g.score).collect();
    [NamedTensor::i64("sequences", &[all.len(), longest], &ids), NamedTensor::f32("scores", &[scores.len()], &scores)]
}

fn print(args: &GenerateArgs, model: &Model, options: &GenerateOptions, all: &[Generated]) {
    for Generated { ids, score } in all {
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !options.eos_token_ids.contains(id)).collect();
        let text = model.tokenizer().ok().map(|t| t.decode(&ids));
        if args.common.json {
            println!("{}", serde_json::json!({ "text": text, "ids": ids, "score": score }));
        } else if !args.stream {
            let numbers = || ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            println!("{}", text.unwrap_or_else(numbers));
        }
    }
}
