//! `LlamaModel.forward` and `LlamaForCausalLM.forward` of the published modules: the same arguments, the same outputs,
//! the same numbers. Tensors come from and go to the host.
//!
//! One deviation is deliberate: in the published code a later chunk of `num_query_token` or more rows on top of a cache
//! would cross-attend to self-attention's cached keys joined to the picture's. Here cross-attention belongs to the
//! absolute rows 0 .. num_query_token - 1, so a chunk on top of a cache skips it.

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Array, Pool};
use crate::error::{Error, Result};
use crate::files::config::LlamaConfig;
use crate::generate::check::{GivenRows, check_images, check_mask, check_vision, input, wrong_shape};
use crate::generate::options::KvCacheType;
use crate::model::calls::Task;
use crate::model::front::Model;
use crate::model::network::{Crossed, Network};
use crate::model::past::{Arguments, PastKeyValues, Writer};
use crate::nets::decoder::{Observed, Pass};
use crate::ops::Rows;
use crate::ops::attention::{Keys, Mask};
use crate::ops::logits::cross_entropy::cross_entropy;
use crate::ops::rows::copy_rows::copy_rows;
use crate::ops::rows::embed::embed;

/// The label that counts for nothing in the loss.
pub const IGNORED_LABEL: i64 = -100;

/// The arguments of `forward`. B is the batch, S the rows of this call, P those in the cache, T = P + S.
#[derive(Default)]
pub struct ForwardInputs {
    /// [B, S]; this or `inputs_embeds`, not both. With `query_embeds` [B, N, H] in front, S counts both.
    pub input_ids: Option<Array<i64>>,
    /// [B, S, H].
    pub inputs_embeds: Option<Array<f32>>,
    /// [B, N, H]: rows that stand before those of `input_ids`.
    pub query_embeds: Option<Array<f32>>,
    /// [B, T], 1 where a key may be seen; default all ones. A row that may see no key attends uniformly to all T.
    pub attention_mask: Option<Array<i64>>,
    /// [B, S]; default P .. P + S - 1. Positions of `max_position_embeddings` or more are an error.
    pub position_ids: Option<Array<i64>>,
    /// Keys and values of earlier calls.
    pub past_key_values: Option<PastKeyValues>,
    /// [images, rows, vision_hidden_size]; without it, or on top of a cache, or with fewer than `num_query_token` rows,
    /// cross-attention is skipped.
    pub vision_hidden_states: Option<Array<f32>>,
    /// Text row b attends to image b % images; B = repeat_time * images, or one image serves all. Default 1.
    pub repeat_time: Option<usize>,
    /// [B, S]; -100 is ignored. Asks for the loss.
    pub labels: Option<Array<i64>>,
    /// Return `past_key_values`.
    pub use_cache: bool,
    /// Query tokens see each other both ways, whatever the mask says.
    pub use_zero_attention_mask: bool,
    pub output_attentions: bool,
    pub output_cross_attentions: bool,
    pub output_hidden_states: bool,
    /// Compute `logits`. Labels ask for them too.
    pub output_logits: bool,
    pub output_last_hidden_state: bool,
}

/// What was asked for.
#[derive(Default)]
pub struct ForwardOutputs {
    /// [B, S, H]
    pub last_hidden_state: Option<Array<f32>>,
    /// [B, S, V]
    pub logits: Option<Array<f32>>,
    /// Mean cross-entropy over the labels that are not ignored; NaN when all are.
    pub loss: Option<f32>,
    /// L + 1 of [B, S, H]: embeddings, each layer's output, the last one after the final norm.
    pub hidden_states: Vec<Array<f32>>,
    /// L of [B, A, S, T].
    pub attentions: Vec<Array<f32>>,
    /// One a layer that cross-attended: [B, A, N, vision rows].
    pub cross_attentions: Vec<Array<f32>>,
    pub past_key_values: Option<PastKeyValues>,
}

/// What the checks of the arguments found out.
pub(crate) struct Checked {
    pub batch: usize,
    pub rows: usize,
    past: usize,
    pub queries: usize,
    pub positions: Vec<u32>,
    pub ids: Vec<u32>,
}

impl From<Arguments> for ForwardInputs {
    fn from(arguments: Arguments) -> ForwardInputs {
        ForwardInputs {
            input_ids: arguments.input_ids,
            inputs_embeds: arguments.inputs_embeds,
            query_embeds: arguments.query_embeds,
            attention_mask: arguments.attention_mask,
            position_ids: arguments.position_ids,
            vision_hidden_states: arguments.vision_hidden_states,
            repeat_time: arguments.repeat_time,
            use_zero_attention_mask: arguments.use_zero_attention_mask,
            ..Default::default()
        }
    }
}

/// Which of the published functions runs, with the mask that is its own.
#[derive(Clone, Copy)]
pub(crate) enum Function<'a> {
    /// Causal, with `attention_mask`.
    Forward,
    /// Without a mask.
    TrainUnmasked,
    /// With an additive mask [B, 1, S, S].
    Train(&'a Array<f32>),
}

impl ForwardInputs {
    /// Checks the arguments of [`Model::forward`] without the weights. `cache` is the batch and the rows of the cache
    /// that will be given, as [`PastKeyValues::check_arrays`] returns them.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn check(&self, config: &LlamaConfig, cache: Option<(usize, usize)>) -> Result<()> {
        self.checked(config, cache).map(|_| ())
    }

    /// As [`ForwardInputs::check`], for [`Model::forward_train`].
    ///
    /// # Errors
    /// Those of [`Model::forward_train`].
    pub fn check_train(&self, config: &LlamaConfig, additive_mask: Option<&Array<f32>>) -> Result<()> {
        self.check_for_train(additive_mask)?;
        let checked = self.checked(config, None)?;
        additive_mask.map_or(Ok(()), |mask| check_additive_mask(mask, checked.batch, checked.rows))
    }

    /// Everything that needs no weights; `cache` is the batch and the rows of the cache.
    pub(crate) fn checked(&self, text: &LlamaConfig, cache: Option<(usize, usize)>) -> Result<Checked> {
        let given = GivenRows {
            input_ids: self.input_ids.as_ref(),
            inputs_embeds: self.inputs_embeds.as_ref(),
            query_embeds: self.query_embeds.as_ref(),
        };
        let given = given.check(text, "input_ids or inputs_embeds", None)?;
        let (batch, rows) = (given.batch, given.queries + given.given);
        if batch == 0 || rows == 0 {
            return input("the batch is empty");
        }
        let past = cache.map_or(0, |(_, rows)| rows);
        if let Some((cached, _)) = cache.filter(|(cached, _)| *cached != batch) {
            let expected = format!("a cache of batch {batch}");
            let found = format!("one of batch {cached}");
            return Err(Error::InputShape { what: "past_key_values".into(), expected, found });
        }
        if let Some(mask) = &self.attention_mask {
            check_mask(mask, batch, &[past + rows])?;
        }
        let positions = self.positions(text, batch, rows, past)?;
        if let Some(labels) = &self.labels {
            check_labels(text, labels, batch, rows)?;
        }
        if let Some(vision) = &self.vision_hidden_states {
            check_vision(text, vision)?;
            check_images("vision_hidden_states", vision.shape[0], self.repeat_time, batch)?;
        }
        Ok(Checked { batch, rows, past, queries: given.queries, positions, ids: given.ids })
    }

    /// What the keys and values of a call on top of `past` rows depend on: a mask of ones says nothing, and pictures
    /// belong to the first rows.
    fn arguments(&self, past: usize) -> Arguments {
        Arguments {
            input_ids: self.input_ids.clone(),
            inputs_embeds: self.inputs_embeds.clone(),
            query_embeds: self.query_embeds.clone(),
            attention_mask: self.attention_mask.clone().filter(|mask| mask.values.contains(&0)),
            position_ids: self.position_ids.clone(),
            vision_hidden_states: self.vision_hidden_states.clone().filter(|_| past == 0),
            repeat_time: self.repeat_time.filter(|_| past == 0),
            use_zero_attention_mask: self.use_zero_attention_mask,
        }
    }

    /// What it takes of the device.
    fn tasks(&self) -> [Task; 3] {
        let attention = self.output_attentions || self.output_cross_attentions;
        [Task::Pictures, Task::text(KvCacheType::F32), Task::Forward { attention }]
    }

    /// `position_ids`, or P .. P + S - 1.
    fn positions(&self, text: &LlamaConfig, batch: usize, rows: usize, past: usize) -> Result<Vec<u32>> {
        let limit = text.max_position_embeddings;
        let Some(array) = &self.position_ids else {
            if past + rows > limit {
                return Err(Error::Context { need: past + rows, max: limit });
            }
            return Ok((0..batch).flat_map(|_| (past..past + rows).map(|p| p as u32)).collect());
        };
        if array.shape != [batch, rows] {
            return wrong_shape("position_ids", format!("[{batch}, {rows}]"), &array.shape);
        }
        let position = |&p: &i64| match u32::try_from(p) {
            Ok(small) if (small as usize) < limit => Ok(small),
            Ok(large) => Err(Error::Context { need: large as usize + 1, max: limit }),
            Err(_) => input(format!("position_ids: {p} is not from 0 to {}", limit - 1)),
        };
        array.values.iter().map(position).collect()
    }

    /// What `forward_train` takes, and no more.
    fn check_for_train(&self, additive_mask: Option<&Array<f32>>) -> Result<()> {
        for (given, name) in [
            (self.past_key_values.is_some(), "past_key_values"),
            (self.attention_mask.is_some(), "attention_mask"),
            (self.use_cache, "use_cache"),
            (self.use_zero_attention_mask, "use_zero_attention_mask"),
        ] {
            if given {
                return input(format!("forward_train takes an additive mask, and no {name}"));
            }
        }
        match additive_mask.and_then(|mask| mask.values.iter().position(|m| m.is_nan())) {
            Some(index) => Err(Error::NonFinite { what: "additive_mask".into(), index: index as u64 }),
            None => Ok(()),
        }
    }
}

fn check_additive_mask(mask: &Array<f32>, batch: usize, rows: usize) -> Result<()> {
    if mask.shape == [batch, 1, rows, rows] {
        return Ok(());
    }
    wrong_shape("additive_mask", format!("[{batch}, 1, {rows}, {rows}]"), &mask.shape)
}

fn check_labels(text: &LlamaConfig, labels: &Array<i64>, batch: usize, rows: usize) -> Result<()> {
    if labels.shape != [batch, rows] {
        return wrong_shape("labels", format!("[{batch}, {rows}]"), &labels.shape);
    }
    let vocab = text.vocab_size;
    let wrong = |id: &i64| *id != IGNORED_LABEL && usize::try_from(*id).map_or(true, |id| id >= vocab);
    match labels.values.iter().position(wrong) {
        Some(index) => Err(Error::Token { index, id: labels.values[index], vocab }),
        None => Ok(()),
    }
}

impl Model {
    /// As [`Model::forward`], to be awaited; the only form in browsers.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub async fn forward_async(&self, inputs: &mut ForwardInputs) -> Result<ForwardOutputs> {
        let tasks = inputs.tasks();
        self.loaded().run(&tasks, async |network| network.forward(inputs, Function::Forward).await).await
    }

    /// As [`Model::forward_train`], to be awaited.
    ///
    /// # Errors
    /// As [`Model::forward_train`].
    pub async fn forward_train_async(
        &self,
        inputs: &mut ForwardInputs,
        additive_mask: Option<&Array<f32>>,
    ) -> Result<ForwardOutputs> {
        inputs.check_for_train(additive_mask)?;
        let function = additive_mask.map_or(Function::TrainUnmasked, Function::Train);
        let tasks = inputs.tasks();
        self.loaded().run(&tasks, async |network| network.forward(inputs, function).await).await
    }
}

impl PastKeyValues {
    /// Per layer k and v as [B, A, T, D], of the model that made it.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for another model; the device's.
    pub async fn to_arrays_async(&mut self, model: &Model) -> Result<Vec<(Array<f32>, Array<f32>)>> {
        let read = model.run(async |network| {
            network.check_past(self)?;
            network.revive(self).await?;
            self.read(network).await
        });
        read.await
    }
}

/// Where a pass puts what it was asked for, until that is read.
#[derive(Default)]
struct Kept {
    last_hidden_state: Option<Tensor>,
    logits: Option<Tensor>,
    /// The loss of each row, and how many rows count.
    losses: Option<(Tensor, usize)>,
    hidden_states: Vec<Tensor>,
    observed: Observed,
}

impl Network {
    async fn forward(&self, inputs: &mut ForwardInputs, function: Function<'_>) -> Result<ForwardOutputs> {
        let given = inputs.past_key_values.as_ref();
        given.map_or(Ok(()), |past| self.check_past(past))?;
        let checked = inputs.checked(&self.config.text, given.map(|cache| (cache.batch, cache.len)))?;
        if let Function::Train(mask) = function {
            check_additive_mask(mask, checked.batch, checked.rows)?;
        }
        let past_len = checked.past;
        let given = inputs.past_key_values.take();
        let was_given = given.is_some();
        let mut past = match given {
            Some(past) => past,
            None => PastKeyValues::empty(self, checked.batch, checked.rows)?,
        };
        let outputs = match self.revive(&mut past).await {
            Ok(()) => self.pass(inputs, &checked, function, &mut past).await,
            Err(error) => Err(error),
        };
        match outputs {
            Ok(mut outputs) if inputs.use_cache => {
                past.note(past_len, inputs.arguments(past_len));
                outputs.past_key_values = Some(past);
                Ok(outputs)
            }
            // Rows behind `past.len` hold what nobody reads.
            outputs => {
                if was_given {
                    past.len = past_len;
                    inputs.past_key_values = Some(past);
                }
                outputs
            }
        }
    }

    /// # Errors
    /// `E_INPUT_SHAPE` for a cache of another model.
    fn check_past(&self, past: &PastKeyValues) -> Result<()> {
        if !past.is_foreign(self) {
            return Ok(());
        }
        let (expected, found) = ("a cache that this model made".into(), "one of another model".into());
        Err(Error::InputShape { what: "past_key_values".into(), expected, found })
    }

    /// Makes a cache again of what made it, where it is not on this network's device: that of before was lost.
    async fn revive(&self, past: &mut PastKeyValues) -> Result<()> {
        if past.held_by(self).is_some() {
            return Ok(());
        }
        let mut made = PastKeyValues::empty(self, past.batch, past.len.max(1))?;
        for written in &past.written {
            made.len = written.past;
            match &written.by {
                Writer::Arrays(arrays) => made.fill(self, arrays)?,
                Writer::Forward(arguments) => {
                    let inputs = ForwardInputs::from(Arguments::clone(arguments));
                    let checked = inputs.checked(&self.config.text, Some((made.batch, made.len)))?;
                    self.pass(&inputs, &checked, Function::Forward, &mut made).await?;
                }
            }
        }
        past.take_held(made);
        Ok(())
    }

    /// The pass itself, with arguments that were checked.
    async fn pass(
        &self,
        inputs: &ForwardInputs,
        checked: &Checked,
        function: Function<'_>,
        past: &mut PastKeyValues,
    ) -> Result<ForwardOutputs> {
        let Checked { batch, rows, past: past_len, .. } = *checked;
        let keys_count = past_len + rows;
        let text = &self.config.text;
        let mut pool = self.device().pool();
        let mask = self.mask(&mut pool, inputs, checked, function)?;
        let crossed = match &inputs.vision_hidden_states {
            Some(vision) if past_len == 0 && rows >= text.num_query_token && text.cross_attention => {
                let vision = self.vision_from(vision.shape[0], vision.shape[1], &vision.values)?;
                Some(self.cross_states(&vision).await?)
            }
            _ => None,
        };
        let held = past.reserve(self, keys_count)?;
        let slot = |b: usize, t: usize| (b * held.capacity + t) as u32;
        let table: Vec<u32> = (0..batch).flat_map(|b| (0..keys_count).map(move |t| slot(b, t))).collect();
        let slots: Vec<u32> = (0..batch).flat_map(|b| (past_len..keys_count).map(move |t| slot(b, t))).collect();

        let mut r = self.device().recording();
        let x = self.record_embeddings(&mut r, &mut pool, inputs, checked)?;
        let pass = Pass {
            embeddings: x,
            batch,
            rows,
            positions: pool.u32(&[batch * rows], &checked.positions)?,
            slots: pool.u32(&[batch * rows], &slots)?,
            caches: &held.caches,
            keys: Keys::Cached {
                table: pool.u32(&[batch, keys_count], &table)?,
                past: pool.u32(&[1], &[past_len as u32])?,
            },
            mask,
            cross: crossed.as_ref().map(|crossed| &crossed.states),
        };
        let observed = self.observe(&mut pool, inputs, checked, crossed.as_ref())?;
        let mut kept = Kept { observed, ..Default::default() };
        let passed = self.decoder().record(&mut r, &pass, &kept.observed);
        let last = passed.last_hidden_state;
        if inputs.output_hidden_states {
            for state in passed.hidden_states {
                kept.hidden_states.push(if state.id == x.id { state } else { pool.keep(&mut r, state)? });
            }
        }
        if inputs.output_last_hidden_state || inputs.output_hidden_states {
            kept.last_hidden_state = Some(pool.keep(&mut r, last)?);
        }
        self.record_head(&mut r, &mut pool, inputs, last, &mut kept)?;
        self.device().play(&r)?;
        past.len = keys_count;
        let outputs = self.read_outputs(inputs, kept, batch).await?;
        // Reports what went wrong on the device, also where nothing was asked for.
        self.device().finish().await?;
        Ok(outputs)
    }

    pub(crate) fn mask(
        &self,
        pool: &mut Pool,
        inputs: &ForwardInputs,
        checked: &Checked,
        function: Function<'_>,
    ) -> Result<Mask> {
        let Checked { batch, rows, past, .. } = *checked;
        Ok(match function {
            Function::TrainUnmasked => Mask::None,
            Function::Train(mask) => {
                // Shaders may assume that there is no infinity.
                let finite: Vec<f32> = mask.values.iter().map(|m| m.clamp(f32::MIN, f32::MAX)).collect();
                Mask::Additive(pool.f32(&[batch, rows, rows], &finite)?)
            }
            Function::Forward => {
                let attention_mask = match &inputs.attention_mask {
                    Some(mask) if mask.values.contains(&0) => {
                        let values: Vec<u32> = mask.values.iter().map(|&m| m as u32).collect();
                        Some(pool.u32(&[batch, past + rows], &values)?)
                    }
                    _ => None,
                };
                let queries = self.config.text.num_query_token;
                Mask::Causal { attention_mask, zero_queries: if inputs.use_zero_attention_mask { queries } else { 0 } }
            }
        })
    }

    /// The decoder's input [batch * rows, hidden_size], in `pool`.
    pub(crate) fn record_embeddings(
        &self,
        r: &mut Recording,
        pool: &mut Pool,
        inputs: &ForwardInputs,
        checked: &Checked,
    ) -> Result<Tensor> {
        let Checked { batch, rows, queries, .. } = *checked;
        let width = self.config.text.hidden_size;
        let x = pool.alloc(DType::F32, &[batch * rows, width])?;
        if let Some(embeds) = &inputs.inputs_embeds {
            self.device().write_all(x, &embeds.values)?;
        }
        if let Some(embeds) = &inputs.query_embeds {
            let from = pool.f32(&[batch * queries, width], &embeds.values)?;
            copy_rows(r, from, Rows::all(from), x, Rows { batch, rows: queries, stride: rows, first: 0 });
        }
        if !checked.ids.is_empty() {
            let ids = pool.u32(&[checked.ids.len()], &checked.ids)?;
            let to = Rows { batch, rows: rows - queries, stride: rows, first: queries };
            embed(r, &self.decoder().embed_tokens, ids, x, to);
        }
        Ok(x)
    }

    /// Memory for the attentions that were asked for.
    fn observe(
        &self,
        pool: &mut Pool,
        inputs: &ForwardInputs,
        checked: &Checked,
        crossed: Option<&Crossed>,
    ) -> Result<Observed> {
        let Checked { batch, rows, past, .. } = *checked;
        let text = &self.config.text;
        let mut observed = Observed::default();
        if inputs.output_attentions {
            for _ in &self.decoder().layers {
                let shape = [batch, text.num_attention_heads, rows, past + rows];
                observed.attentions.push(pool.alloc(DType::F32, &shape)?);
            }
        }
        if let (true, Some(crossed)) = (inputs.output_cross_attentions, crossed) {
            for _ in crossed.states.layers.iter().flatten() {
                let shape = [batch, text.num_attention_heads, text.num_query_token, crossed.states.rows];
                observed.cross_attentions.push(pool.alloc(DType::F32, &shape)?);
            }
        }
        Ok(observed)
    }

    /// Logits and loss, where they are asked for.
    fn record_head(
        &self,
        r: &mut Recording,
        pool: &mut Pool,
        inputs: &ForwardInputs,
        last: Tensor,
        kept: &mut Kept,
    ) -> Result<()> {
        if !inputs.output_logits && inputs.labels.is_none() {
            return Ok(());
        }
        let logits = self.decoder().logits(r, last);
        if let Some(labels) = &inputs.labels {
            let rows = labels.shape[1];
            // Row s is judged by the label of row s + 1; the last row by none.
            let next = |i: usize| match labels.values.get(i + 1) {
                Some(&id) if !(i + 1).is_multiple_of(rows) && id != IGNORED_LABEL => id as u32,
                _ => u32::MAX,
            };
            let shifted: Vec<u32> = (0..labels.values.len()).map(next).collect();
            let counted = shifted.iter().filter(|l| **l != u32::MAX).count();
            let shifted = pool.u32(&[shifted.len()], &shifted)?;
            let losses = cross_entropy(r, logits, shifted);
            kept.losses = Some((pool.keep(r, losses)?, counted));
        }
        if inputs.output_logits {
            kept.logits = Some(pool.keep(r, logits)?);
        }
        Ok(())
    }

    async fn read_outputs(&self, inputs: &ForwardInputs, kept: Kept, batch: usize) -> Result<ForwardOutputs> {
        let rows_of = |t: Tensor| [batch, t.rows() / batch, t.width()];
        let mut outputs = ForwardOutputs::default();
        if let Some(last) = kept.last_hidden_state.filter(|_| inputs.output_last_hidden_state) {
            outputs.last_hidden_state = Some(self.read("last_hidden_state", last, &rows_of(last)).await?);
        }
        if let Some(logits) = kept.logits {
            outputs.logits = Some(self.read("logits", logits, &rows_of(logits)).await?);
        }
        if let Some((losses, counted)) = kept.losses {
            let sum: f64 = self.device().read_numbers("losses", losses).await?.iter().map(|l| f64::from(*l)).sum();
            outputs.loss = Some((sum / counted as f64) as f32);
        }
        if inputs.output_hidden_states {
            for state in kept.hidden_states.into_iter().chain(kept.last_hidden_state) {
                outputs.hidden_states.push(self.read("hidden_states", state, &rows_of(state)).await?);
            }
        }
        for tensor in &kept.observed.attentions {
            outputs.attentions.push(self.read("attentions", *tensor, tensor.shape()).await?);
        }
        for tensor in &kept.observed.cross_attentions {
            outputs.cross_attentions.push(self.read("cross_attentions", *tensor, tensor.shape()).await?);
        }
        Ok(outputs)
    }

    async fn read(&self, what: &str, tensor: Tensor, shape: &[usize]) -> Result<Array<f32>> {
        Ok(Array::new(shape, self.device().read_numbers(what, tensor).await?))
    }
}
