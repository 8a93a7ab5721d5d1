//! The decoder against what the published modules computed: every key of the `qllama-*` fixtures.

use crate::common::engine::{
    Array, Device, EarlyStopping, ForwardInputs, ForwardOutputs, GenerateInputs, GenerateOptions, Model, Result,
};
use crate::common::{Checks, Expected, generate, gpu, load};
use pollster::block_on;

/// Query embeddings and ids in front of everything else.
fn joined(e: &Expected) -> ForwardInputs {
    ForwardInputs {
        query_embeds: Some(e.f32("query_embeds")),
        input_ids: Some(e.i64("input_ids")),
        attention_mask: Some(e.i64("attention_mask")),
        vision_hidden_states: Some(e.f32("vision_hidden_states")),
        use_zero_attention_mask: true,
        ..Default::default()
    }
}

/// `a` with `b` behind it along axis 1.
fn append(a: &Array<i64>, b: &[i64]) -> Array<i64> {
    let (batch, width) = (a.shape[0], a.shape[1]);
    let more = b.len() / batch;
    let values = (0..batch).flat_map(|i| [&a.values[i * width..][..width], &b[i * more..][..more]].concat()).collect();
    Array::new(&[batch, width + more], values)
}

/// What a `qllama-*` folder expects, with the model that is to compute it.
struct Fixture {
    e: Expected,
    model: Model,
    folder: &'static str,
    limit: f64,
    repeat_time: Option<usize>,
    checks: Checks,
}

impl Fixture {
    fn near(&self, key: &str, found: Option<&Array<f32>>) {
        let found = found.expect("an output that was asked for");
        self.checks.close(&format!("{} {key}", self.folder), &self.e.f32(key), found, self.limit);
    }

    /// As [`Fixture::near`], where the folder has the key.
    fn near_if_there(&self, key: &str, found: Option<&Array<f32>>) {
        if self.e.has(key) {
            self.near(key, found);
        }
    }

    /// The keys of a part that the folder has, by one that all such folders have.
    fn part(&self, key: &str, check: impl FnOnce() -> Result<()>) {
        if self.e.has(key) {
            self.checks.run(&format!("{} {key}", self.folder), check);
        }
    }

    fn forward(&self, mut inputs: ForwardInputs) -> Result<ForwardOutputs> {
        self.model.forward(&mut inputs)
    }

    fn repeated(&self, inputs: ForwardInputs) -> ForwardInputs {
        ForwardInputs { repeat_time: self.repeat_time, ..inputs }
    }

    /// ForwardInputs with the picture alone.
    fn seeing(&self) -> ForwardInputs {
        self.repeated(ForwardInputs {
            vision_hidden_states: Some(self.e.f32("vision_hidden_states")),
            ..Default::default()
        })
    }

    fn prefill(&self) -> Result<ForwardOutputs> {
        self.forward(ForwardInputs {
            use_cache: true,
            output_attentions: self.e.has("prefill.attentions.0"),
            output_hidden_states: true,
            output_last_hidden_state: true,
            output_logits: true,
            ..self.repeated(joined(&self.e))
        })
    }

    fn check_prefill(&self) -> Result<()> {
        let outputs = self.prefill()?;
        self.near("prefill.logits", outputs.logits.as_ref());
        self.near_if_there("prefill.last_hidden_state", outputs.last_hidden_state.as_ref());
        for (i, state) in outputs.hidden_states.iter().enumerate() {
            self.near_if_there(&format!("prefill.hidden_states.{i}"), Some(state));
        }
        for (i, attention) in outputs.attentions.iter().enumerate() {
            self.near_if_there(&format!("prefill.attentions.{i}"), Some(attention));
        }
        let arrays = block_on(outputs.past_key_values.unwrap().to_arrays_async(&self.model))?;
        assert_eq!(arrays.len(), self.model.config().text.num_hidden_layers);
        for (i, (k, v)) in arrays.iter().enumerate() {
            self.near_if_there(&format!("prefill.past_key.{i}"), Some(k));
            self.near_if_there(&format!("prefill.past_value.{i}"), Some(v));
        }
        Ok(())
    }

    /// Steps on top of the cache.
    fn check_decode(&self) -> Result<()> {
        let ids = self.e.i64("decode.input_ids");
        let (batch, steps) = (ids.shape[0], ids.shape[1]);
        let mut past = self.prefill()?.past_key_values;
        let mut mask = self.e.i64("attention_mask");
        for step in 0..steps {
            let column = (0..batch).map(|b| ids.values[b * steps + step]).collect();
            mask = append(&mask, &vec![1; batch]);
            let inputs = ForwardInputs {
                input_ids: Some(Array::new(&[batch, 1], column)),
                attention_mask: Some(mask.clone()),
                position_ids: Some(self.e.i64(&format!("decode.position_ids.{step}"))),
                past_key_values: past.take(),
                use_cache: true,
                use_zero_attention_mask: true,
                output_logits: true,
                ..self.seeing()
            };
            let outputs = self.forward(inputs)?;
            self.near(&format!("decode.logits.{step}"), outputs.logits.as_ref());
            past = outputs.past_key_values;
        }
        Ok(())
    }

    fn check_chunk(&self) -> Result<()> {
        let ids = self.e.i64("chunk.input_ids");
        let ones = vec![1; ids.values.len()];
        let inputs = ForwardInputs {
            attention_mask: Some(append(&self.e.i64("attention_mask"), &ones)),
            input_ids: Some(ids),
            past_key_values: self.prefill()?.past_key_values,
            use_zero_attention_mask: true,
            output_last_hidden_state: true,
            ..self.seeing()
        };
        self.near("chunk.last_hidden_state", self.forward(inputs)?.last_hidden_state.as_ref());
        Ok(())
    }

    fn check_positions(&self) -> Result<()> {
        let position_ids = Some(self.e.i64("positions.position_ids"));
        let inputs = ForwardInputs { position_ids, output_logits: true, ..self.repeated(joined(&self.e)) };
        self.near("positions.logits", self.forward(inputs)?.logits.as_ref());
        Ok(())
    }

    fn loss_is(&self, key: &str, found: Option<f32>) {
        let (found, expected) = (found.expect("labels were given"), self.e.f32(key).values[0]);
        assert!((found - expected).abs() <= 1e-5, "found {found}, expected {expected}");
    }

    fn check_losses(&self) {
        self.part("loss.loss", || {
            let inputs = ForwardInputs {
                input_ids: Some(self.e.i64("loss.input_ids")),
                labels: Some(self.e.i64("loss.labels")),
                output_logits: true,
                ..Default::default()
            };
            let outputs = self.forward(inputs)?;
            self.near("loss.logits", outputs.logits.as_ref());
            self.loss_is("loss.loss", outputs.loss);
            Ok(())
        });
        self.part("vision_loss.loss", || {
            let inputs =
                ForwardInputs { labels: Some(self.e.i64("vision_loss.labels")), ..self.repeated(joined(&self.e)) };
            self.loss_is("vision_loss.loss", self.forward(inputs)?.loss);
            Ok(())
        });
    }

    fn check_forward_train(&self) {
        self.part("forward_train.last_hidden_state", || {
            // The text mask is what the additive mask was made of.
            let text_mask = self.e.i64("forward_train.text_mask");
            let input_ids = self.e.i64("loss.input_ids");
            assert_eq!(text_mask.shape, input_ids.shape);
            let mut inputs =
                ForwardInputs { input_ids: Some(input_ids), output_last_hidden_state: true, ..Default::default() };
            let mask = self.e.f32("forward_train.additive_mask");
            let outputs = self.model.forward_train(&mut inputs, Some(&mask))?;
            self.near("forward_train.last_hidden_state", outputs.last_hidden_state.as_ref());
            Ok(())
        });
        self.part("forward_train.image.last_hidden_state", || {
            let inputs_embeds = Some(self.e.f32("query_embeds"));
            let mut inputs = ForwardInputs { inputs_embeds, output_last_hidden_state: true, ..self.seeing() };
            let outputs = self.model.forward_train(&mut inputs, None)?;
            self.near("forward_train.image.last_hidden_state", outputs.last_hidden_state.as_ref());
            Ok(())
        });
    }

    /// Without a picture, with fewer rows than queries, and with padding in front.
    fn check_other_prompts(&self) {
        self.part("no_vision.last_hidden_state", || {
            let inputs =
                ForwardInputs { vision_hidden_states: None, output_last_hidden_state: true, ..joined(&self.e) };
            self.near("no_vision.last_hidden_state", self.forward(inputs)?.last_hidden_state.as_ref());
            Ok(())
        });
        self.part("short.last_hidden_state", || {
            let all = self.e.f32("query_embeds");
            let (batch, rows, width) = (all.shape[0], all.shape[1], all.shape[2]);
            let first = all.values.chunks(rows * width).flat_map(|s| s[..(rows - 1) * width].to_vec()).collect();
            let inputs_embeds = Some(Array::new(&[batch, rows - 1, width], first));
            let inputs = ForwardInputs { inputs_embeds, output_last_hidden_state: true, ..self.seeing() };
            self.near("short.last_hidden_state", self.forward(inputs)?.last_hidden_state.as_ref());
            Ok(())
        });
        self.part("left_pad.last_hidden_state", || {
            let inputs = ForwardInputs {
                input_ids: Some(self.e.i64("loss.input_ids")),
                attention_mask: Some(self.e.i64("left_pad.attention_mask")),
                output_attentions: true,
                output_last_hidden_state: true,
                ..Default::default()
            };
            let outputs = self.forward(inputs)?;
            self.near("left_pad.last_hidden_state", outputs.last_hidden_state.as_ref());
            self.near("left_pad.attentions.0", outputs.attentions.first());
            Ok(())
        });
    }

    fn check_generation(&self) {
        for key in self.e.keys().iter().filter(|key| key.starts_with("generate") && !key.ends_with("_id")) {
            self.part(key, || {
                let expected = self.e.i64(key);
                let found = self.generated(&options_of(&self.e, key))?;
                assert_eq!(found.len(), expected.shape[0]);
                for (row, (ids, expected)) in found.iter().zip(expected.values.chunks(expected.shape[1])).enumerate() {
                    // The library's BOS in front, padding behind.
                    let mut padded = vec![1i64];
                    padded.extend(ids.iter().map(|&id| i64::from(id)));
                    padded.resize(expected.len(), 0);
                    assert_eq!(padded, expected, "row {row}");
                }
                Ok(())
            });
        }
    }

    fn generated(&self, options: &GenerateOptions) -> Result<Vec<Vec<u32>>> {
        let inputs = GenerateInputs {
            query_embeds: Some(self.e.f32("query_embeds")),
            input_ids: Some(self.e.i64("input_ids")),
            attention_mask: Some(self.e.i64("attention_mask")),
            vision_hidden_states: Some(self.e.f32("vision_hidden_states")),
            repeat_time: Some(self.repeat_time.unwrap_or(1)),
            ..Default::default()
        };
        generate(&self.model, &inputs, options)
    }
}

/// Everything that a `qllama-*` folder expects.
fn check(folder: &'static str, device: &Device, limit: f64, repeat_time: Option<usize>) {
    let model = load(&format!("tests/data/fixtures/{folder}"), device);
    let checks = Checks::default();
    let fixture = Fixture { e: Expected::open(folder), model, folder, limit, repeat_time, checks };
    fixture.part("prefill.logits", || fixture.check_prefill());
    fixture.part("decode.input_ids", || fixture.check_decode());
    fixture.part("chunk.input_ids", || fixture.check_chunk());
    fixture.part("positions.logits", || fixture.check_positions());
    fixture.check_losses();
    fixture.check_forward_train();
    fixture.check_other_prompts();
    fixture.check_generation();
    let Fixture { e, checks, .. } = fixture;
    checks.hold(folder, || e.all_read());
    checks.finish();
}

/// The options that a key's name stands for.
fn options_of(e: &Expected, key: &str) -> GenerateOptions {
    let with_end = key.starts_with("generate_eos.");
    let mut options = GenerateOptions {
        max_new_tokens: if with_end { 16 } else { 12 },
        eos_token_ids: with_end.then(|| vec![e.i64("generate_eos.eos_token_id").values[0] as u32]),
        ..Default::default()
    };
    for word in key.split('.').skip(1).collect::<Vec<_>>().join(".").split('_') {
        let number = |prefix: &str| word.strip_prefix(prefix).and_then(|n| n.parse::<f32>().ok());
        match word {
            "early" => options.early_stopping = EarlyStopping::True,
            "never" => options.early_stopping = EarlyStopping::Never,
            "greedy" => {}
            _ => {
                if let Some(n) = number("beam") {
                    options.num_beams = n as usize;
                } else if let Some(n) = number("min") {
                    options.min_new_tokens = n as usize;
                } else if let Some(n) = number("lp") {
                    options.length_penalty = n;
                } else if let Some(n) = number("ret") {
                    options.num_return_sequences = n as usize;
                } else if let Some(n) = number("rep") {
                    options.repetition_penalty = n;
                } else if let Some(n) = number("ngram") {
                    options.no_repeat_ngram_size = n as usize;
                } else {
                    panic!("{key}: what is {word}?");
                }
            }
        }
    }
    options
}

#[test]
fn base() {
    check("qllama-base", &gpu(), 1e-9, None);
}

#[test]
fn ragged() {
    check("qllama-ragged", &gpu(), 1e-9, None);
}

#[test]
fn repeat() {
    check("qllama-repeat", &gpu(), 1e-9, Some(2));
}

#[test]
fn outliers() {
    check("qllama-outliers", &gpu(), 1e-9, None);
}

#[test]
fn packed_4_bits_symmetric() {
    check("qllama-w4-g32-sym", &gpu(), 1e-7, None);
}

#[test]
fn packed_4_bits_with_zero_points() {
    check("qllama-w4-g64-asym", &gpu(), 1e-7, None);
}

#[test]
fn packed_8_bits() {
    check("qllama-w8-channel", &gpu(), 1e-7, None);
}

#[test]
fn the_cpu_executor_agrees() {
    check("qllama-ragged", &Device::cpu(), 1e-9, None);
}
