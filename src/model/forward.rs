//! `LlamaModel.forward` and `LlamaForCausalLM.forward` of the published modules: the same arguments, the same outputs,
//! the same numbers. Tensors come from and go to the host.
//!
//! One deviation is deliberate: in the published code a later chunk of `num_query_token` or more rows on top of a cache
//! would cross-attend to self-attention's cached keys joined to the picture's. Here cross-attention belongs to the
//! absolute rows 0 .. num_query_token - 1, so a chunk on top of a cache skips it.

use std::borrow::BorrowMut;

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Array, Device, Pool};
use crate::error::{Error, Result};
use crate::files::config::LlamaConfig;
use crate::model::{Crossed, Model, check_finite};
use crate::nets::decoder::{Observed, Pass};
use crate::ops::Rows;
use crate::ops::attention::{Keys, Mask};
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::logits::cross_entropy::cross_entropy;
use crate::ops::rows::copy_rows::copy_rows;
use crate::ops::rows::embed::embed;

/// The label that counts for nothing in the loss.
pub const IGNORED_LABEL: i64 = -100;

/// The arguments of `forward`. B is the batch, S the rows of this call, P those in the cache, T = P + S.
#[derive(Default)]
pub struct Inputs {
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
pub struct Outputs {
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

/// Self-attention's keys (after RoPE) and values of the rows so far, on the device.
pub struct PastKeyValues {
    _pool: Pool,
    caches: Vec<KvCache>,
    batch: usize,
    capacity: usize,
    len: usize,
    width: usize,
    /// The model that made it; see [`owner`].
    owner: u32,
}

/// What tells one loaded model from all others: the id of memory that is its own.
fn owner(model: &Model) -> u32 {
    model.decoder().norm.id
}

impl PastKeyValues {
    fn empty(model: &Model, batch: usize, capacity: usize, dtype: DType) -> Result<PastKeyValues> {
        let heads = model.decoder().heads();
        let width = heads.kv_heads * heads.head_dim;
        let mut pool = model.device().pool();
        let mut caches = Vec::new();
        for _ in &model.decoder().layers {
            let k = pool.alloc(dtype, &[batch * capacity, width])?;
            caches.push(KvCache { k, v: pool.alloc(dtype, &[batch * capacity, width])? });
        }
        Ok(PastKeyValues { _pool: pool, caches, batch, capacity, len: 0, width, owner: owner(model) })
    }

    /// Rows in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Checks `past_key_values` of another tool for [`PastKeyValues::from_arrays`], without the weights; returns the
    /// batch and the rows of the cache.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for another model's cache, `E_NONFINITE`.
    pub fn check_arrays(config: &LlamaConfig, layers: &[(Array<f32>, Array<f32>)]) -> Result<(usize, usize)> {
        let wrong = |what: String, expected: String, found: String| Err(Error::InputShape { what, expected, found });
        if layers.len() != config.num_hidden_layers {
            let expected = format!("{} layers", config.num_hidden_layers);
            return wrong("past_key_values".into(), expected, format!("{} layers", layers.len()));
        }
        let first = layers[0].0.shape.clone();
        let (heads, width) = (config.num_key_value_heads, config.head_dim);
        for (layer, (k, v)) in layers.iter().enumerate() {
            for (name, array) in [("key", k), ("value", v)] {
                let what = format!("past_{name}.{layer}");
                let fits = matches!(array.shape[..], [batch, h, _, w] if batch > 0 && h == heads && w == width);
                if !fits || array.shape != first {
                    let expected = format!("[batch, {heads}, rows, {width}], the same in every layer");
                    return wrong(what, expected, format!("{:?}", array.shape));
                }
                check_finite(&what, &array.values)?;
            }
        }
        Ok((first[0], first[2]))
    }

    /// A cache from `past_key_values` of another tool: per layer k and v, [B, A, P, D], keys after RoPE.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for another model's cache, `E_NONFINITE`.
    pub fn from_arrays(model: &Model, layers: &[(Array<f32>, Array<f32>)]) -> Result<PastKeyValues> {
        let heads = model.decoder().heads();
        let (batch, len) = PastKeyValues::check_arrays(&model.config.text, layers)?;
        let mut past = PastKeyValues::empty(model, batch, len.max(1), DType::F32)?;
        for ((k, v), cache) in layers.iter().zip(&past.caches) {
            if len > 0 {
                let rows = |array: &Array<f32>| swap_middle(&array.values, batch, heads.kv_heads, len, heads.head_dim);
                model.device().write_all(cache.k, &rows(k))?;
                model.device().write_all(cache.v, &rows(v))?;
            }
        }
        past.len = len;
        Ok(past)
    }

    /// Per layer k and v as [B, A, T, D].
    pub async fn to_arrays(&self, model: &Model) -> Result<Vec<(Array<f32>, Array<f32>)>> {
        let heads = model.decoder().heads();
        let mut layers = Vec::new();
        for cache in &self.caches {
            let mut pair = Vec::new();
            for tensor in [cache.k, cache.v] {
                let all = model.device().read_f32(tensor).await?;
                let kept: Vec<f32> = all
                    .chunks(self.capacity * self.width)
                    .flat_map(|sequence| sequence[..self.len * self.width].iter().copied())
                    .collect();
                let values = swap_middle(&kept, self.batch, self.len, heads.kv_heads, heads.head_dim);
                pair.push(Array::new(&[self.batch, heads.kv_heads, self.len, heads.head_dim], values));
            }
            let v = pair.pop().expect("two");
            layers.push((pair.pop().expect("two"), v));
        }
        Ok(layers)
    }

    /// Makes room for `rows` rows: twice as many as there are, so that growing costs little a row.
    fn reserve(&mut self, model: &Model, rows: usize) -> Result<()> {
        if rows <= self.capacity {
            return Ok(());
        }
        let mut grown = PastKeyValues::empty(model, self.batch, rows.max(2 * self.capacity), DType::F32)?;
        if self.len > 0 {
            let mut r = Recording::new();
            let from = Rows { batch: self.batch, rows: self.len, stride: self.capacity, first: 0 };
            let to = Rows { stride: grown.capacity, ..from };
            for (old, new) in self.caches.iter().zip(&grown.caches) {
                copy_rows(&mut r, old.k, from, new.k, to);
                copy_rows(&mut r, old.v, from, new.v, to);
            }
            model.device().play(&r)?;
        }
        grown.len = self.len;
        *self = grown;
        Ok(())
    }
}

/// [a, b, c, d] -> [a, c, b, d].
fn swap_middle(values: &[f32], a: usize, b: usize, c: usize, d: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for i in 0..a {
        for k in 0..c {
            for j in 0..b {
                let at = ((i * b + j) * c + k) * d;
                out.extend_from_slice(&values[at..at + d]);
            }
        }
    }
    out
}

/// `causal[s][t]` is 0 where `t <= past + s` and the lowest finite f32 elsewhere: the published `_make_causal_mask`.
/// Returns [rows, past + rows].
pub fn causal_mask(rows: usize, past: usize) -> Vec<f32> {
    let blocked = |s: usize, t: usize| if t <= past + s { 0.0 } else { f32::MIN };
    (0..rows).flat_map(|s| (0..past + rows).map(move |t| blocked(s, t))).collect()
}

/// A padding mask [B, T] of ones and zeros as an additive mask [B, 1, rows, T]: the published `_expand_mask`.
pub fn expanded_mask(mask: &[i64], batch: usize, rows: usize) -> Vec<f32> {
    let keys = mask.len() / batch.max(1);
    let blocked = |m: &i64| if *m == 0 { f32::MIN } else { 0.0 };
    mask.chunks(keys.max(1)).flat_map(|m| (0..rows).flat_map(move |_| m.iter().map(blocked))).collect()
}

/// What the checks of the arguments found out.
struct Checked {
    batch: usize,
    rows: usize,
    past: usize,
    queries: usize,
    positions: Vec<u32>,
    ids: Vec<u32>,
}

fn shape_error<T>(what: &str, expected: String, found: &[usize]) -> Result<T> {
    Err(Error::InputShape { what: what.into(), expected, found: format!("{found:?}") })
}

/// Checks everything that needs no weights; `cache` is the batch and the rows of the cache.
fn check(text: &LlamaConfig, inputs: &Inputs, cache: Option<(usize, usize)>) -> Result<Checked> {
    let (h, vocab) = (text.hidden_size, text.vocab_size);
    let only_one = |reason: &str| Err(Error::Input { reason: reason.into() });
    let (batch, rows) = match (&inputs.input_ids, &inputs.inputs_embeds) {
        (Some(_), Some(_)) => return only_one("give either input_ids or inputs_embeds, not both"),
        (None, None) if inputs.query_embeds.is_none() => return only_one("give input_ids or inputs_embeds"),
        (_, Some(embeds)) => match embeds.shape[..] {
            [batch, rows, width] if width == h => (batch, rows),
            _ => return shape_error("inputs_embeds", format!("[batch, rows, {h}]"), &embeds.shape),
        },
        (Some(ids), None) => match ids.shape[..] {
            [batch, rows] => (batch, rows),
            _ => return shape_error("input_ids", "[batch, rows]".into(), &ids.shape),
        },
        (None, None) => (inputs.query_embeds.as_ref().and_then(|q| q.shape.first().copied()).unwrap_or(0), 0),
    };
    let queries = match &inputs.query_embeds {
        None => 0,
        Some(_) if inputs.inputs_embeds.is_some() => {
            return only_one("query_embeds go with input_ids, not with inputs_embeds");
        }
        Some(q) => match q.shape[..] {
            [b, n, width] if b == batch && width == h => n,
            _ => return shape_error("query_embeds", format!("[{batch}, rows, {h}]"), &q.shape),
        },
    };
    let rows = rows + queries;
    if batch == 0 || rows == 0 {
        return Err(Error::Input { reason: "the batch is empty".into() });
    }
    let mut ids = Vec::new();
    if let Some(array) = &inputs.input_ids {
        for (index, &id) in array.values.iter().enumerate() {
            match u32::try_from(id) {
                Ok(small) if (small as usize) < vocab => ids.push(small),
                _ => return Err(Error::Token { index, id, vocab }),
            }
        }
    }
    for (what, array) in [("inputs_embeds", &inputs.inputs_embeds), ("query_embeds", &inputs.query_embeds)] {
        if let Some(array) = array {
            check_finite(what, &array.values)?;
        }
    }
    let past = cache.map_or(0, |(_, rows)| rows);
    if let Some((cached, _)) = cache
        && cached != batch
    {
        let expected = format!("a cache of batch {batch}");
        let found = format!("one of batch {cached}");
        return Err(Error::InputShape { what: "past_key_values".into(), expected, found });
    }
    if let Some(mask) = &inputs.attention_mask {
        if mask.shape != [batch, past + rows] {
            return shape_error("attention_mask", format!("[{batch}, {}]", past + rows), &mask.shape);
        }
        if let Some(index) = mask.values.iter().position(|m| !(0..=1).contains(m)) {
            let reason = format!("attention_mask: element {index} is {}, expected 0 or 1", mask.values[index]);
            return Err(Error::Input { reason });
        }
    }
    let limit = text.max_position_embeddings;
    let positions: Vec<u32> = match &inputs.position_ids {
        None if past + rows > limit => return Err(Error::Context { need: past + rows, max: limit }),
        None => (0..batch).flat_map(|_| (past..past + rows).map(|p| p as u32)).collect(),
        Some(array) => {
            if array.shape != [batch, rows] {
                return shape_error("position_ids", format!("[{batch}, {rows}]"), &array.shape);
            }
            let position = |&p: &i64| match u32::try_from(p) {
                Ok(small) if (small as usize) < limit => Ok(small),
                Ok(large) => Err(Error::Context { need: large as usize + 1, max: limit }),
                Err(_) => Err(Error::Input { reason: format!("position_ids: {p} is not from 0 to {}", limit - 1) }),
            };
            array.values.iter().map(position).collect::<Result<_>>()?
        }
    };
    if let Some(labels) = &inputs.labels {
        if labels.shape != [batch, rows] {
            return shape_error("labels", format!("[{batch}, {rows}]"), &labels.shape);
        }
        let wrong = |id: &i64| *id != IGNORED_LABEL && usize::try_from(*id).map_or(true, |id| id >= vocab);
        if let Some(index) = labels.values.iter().position(wrong) {
            return Err(Error::Token { index, id: labels.values[index], vocab });
        }
    }
    if let Some(vision) = &inputs.vision_hidden_states {
        check_vision(text, vision)?;
        check_images("vision_hidden_states", vision.shape[0], inputs.repeat_time, batch)?;
    }
    Ok(Checked { batch, rows, past, queries, positions, ids })
}

/// Vision rows [images, rows, vision_hidden_size] of finite numbers, for a model that looks at them.
pub(crate) fn check_vision(text: &LlamaConfig, vision: &Array<f32>) -> Result<()> {
    if !text.cross_attention {
        let reason = "vision_hidden_states: this model has no cross-attention that could use them".into();
        return Err(Error::Input { reason });
    }
    match vision.shape[..] {
        [images, rows, width] if images > 0 && rows > 0 && width == text.vision_hidden_size => {
            check_finite("vision_hidden_states", &vision.values)
        }
        _ => {
            let expected = format!("[images, rows, {}]", text.vision_hidden_size);
            shape_error("vision_hidden_states", expected, &vision.shape)
        }
    }
}

/// One image for all, or `batch` = `repeat_time` * images.
pub(crate) fn check_images(what: &str, images: usize, repeat_time: Option<usize>, batch: usize) -> Result<()> {
    let repeat = repeat_time.unwrap_or(1);
    let rows = images.checked_mul(repeat);
    if rows == Some(batch) || rows == Some(1) {
        return Ok(());
    }
    let expected = format!("one image, or images * repeat_time {repeat} = batch {batch}");
    Err(Error::InputShape { what: what.into(), expected, found: format!("{images} images") })
}

/// What `forward_train` takes, and no more.
fn check_train(inputs: &Inputs, cached: bool, additive_mask: Option<&Array<f32>>) -> Result<()> {
    for (given, name) in [
        (cached || inputs.past_key_values.is_some(), "past_key_values"),
        (inputs.attention_mask.is_some(), "attention_mask"),
        (inputs.use_cache, "use_cache"),
        (inputs.use_zero_attention_mask, "use_zero_attention_mask"),
    ] {
        if given {
            return Err(Error::Input { reason: format!("forward_train takes an additive mask, and no {name}") });
        }
    }
    match additive_mask.and_then(|mask| mask.values.iter().position(|m| m.is_nan())) {
        Some(index) => Err(Error::NonFinite { what: "additive_mask".into(), index: index as u64 }),
        None => Ok(()),
    }
}

fn check_additive_mask(mask: &Array<f32>, batch: usize, rows: usize) -> Result<()> {
    if mask.shape == [batch, 1, rows, rows] {
        return Ok(());
    }
    shape_error("additive_mask", format!("[{batch}, 1, {rows}, {rows}]"), &mask.shape)
}

impl Inputs {
    /// Checks the arguments of [`Model::forward`] without the weights. `cache` is the batch and the rows of the cache
    /// that will be given, as [`PastKeyValues::check_arrays`] returns them.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn check(&self, config: &LlamaConfig, cache: Option<(usize, usize)>) -> Result<()> {
        check(config, self, cache).map(|_| ())
    }

    /// As [`Inputs::check`], for [`Model::forward_train`].
    pub fn check_train(&self, config: &LlamaConfig, additive_mask: Option<&Array<f32>>) -> Result<()> {
        check_train(self, false, additive_mask)?;
        let checked = check(config, self, None)?;
        additive_mask.map_or(Ok(()), |mask| check_additive_mask(mask, checked.batch, checked.rows))
    }
}

impl Model {
    /// `forward`: causal, with an optional padding mask and cache. Given `&mut inputs`, the cache stays there when the
    /// call fails or does not ask for a new one, and is as it was; otherwise it moves to the outputs.
    ///
    /// # Errors
    /// `E_INPUT`, `E_INPUT_SHAPE`, `E_TOKEN`, `E_CONTEXT` and `E_NONFINITE` for arguments that are wrong, all before
    /// anything runs; the device's errors.
    pub async fn forward(&self, mut inputs: impl BorrowMut<Inputs>) -> Result<Outputs> {
        self.run_forward(inputs.borrow_mut(), None).await
    }

    /// `forward_train`: without a cache; `additive_mask` is [B, 1, S, S] of any floats, added to the scores (the sum
    /// is clamped from below at the lowest finite f32), or none at all: then every row sees every key.
    ///
    /// # Errors
    /// As [`Model::forward`]; `E_INPUT` for arguments that `forward_train` does not take.
    pub async fn forward_train(
        &self,
        mut inputs: impl BorrowMut<Inputs>,
        additive_mask: Option<&Array<f32>>,
    ) -> Result<Outputs> {
        check_train(inputs.borrow(), false, additive_mask)?;
        self.run_forward(inputs.borrow_mut(), Some(additive_mask)).await
    }

    async fn run_forward(&self, inputs: &mut Inputs, train: Option<Option<&Array<f32>>>) -> Result<Outputs> {
        let given = inputs.past_key_values.as_ref();
        if let Some(cache) = given
            && cache.owner != owner(self)
        {
            let expected = "a cache that this model made".into();
            let found = "one of another model".into();
            return Err(Error::InputShape { what: "past_key_values".into(), expected, found });
        }
        let checked = check(&self.config.text, inputs, given.map(|cache| (cache.batch, cache.len)))?;
        if let Some(Some(mask)) = train {
            check_additive_mask(mask, checked.batch, checked.rows)?;
        }
        let past_len = checked.past;
        let given = inputs.past_key_values.take();
        let was_given = given.is_some();
        let mut past = match given {
            Some(past) => past,
            None => PastKeyValues::empty(self, checked.batch, checked.rows, DType::F32)?,
        };
        let outputs = self.pass(inputs, checked, train, &mut past).await;
        match outputs {
            Ok(mut outputs) if inputs.use_cache => {
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

    /// The pass itself, with arguments that were checked.
    async fn pass(
        &self,
        inputs: &Inputs,
        checked: Checked,
        train: Option<Option<&Array<f32>>>,
        past: &mut PastKeyValues,
    ) -> Result<Outputs> {
        let Checked { batch, rows, past: past_len, queries, .. } = checked;
        let keys_count = past_len + rows;
        let text = &self.config.text;
        let mut pool = self.device().pool();
        let mask = match train {
            Some(None) => Mask::None,
            Some(Some(mask)) => {
                // Shaders may assume that there is no infinity.
                let finite: Vec<f32> = mask.values.iter().map(|m| m.clamp(f32::MIN, f32::MAX)).collect();
                Mask::Additive(pool.f32(&[batch, rows, rows], &finite)?)
            }
            None => {
                let attention_mask = match &inputs.attention_mask {
                    Some(mask) if mask.values.contains(&0) => {
                        let values: Vec<u32> = mask.values.iter().map(|&m| m as u32).collect();
                        Some(pool.u32(&[batch, keys_count], &values)?)
                    }
                    _ => None,
                };
                let zero_queries = if inputs.use_zero_attention_mask { text.num_query_token } else { 0 };
                Mask::Causal { attention_mask, zero_queries }
            }
        };
        let crossed = match &inputs.vision_hidden_states {
            Some(vision) if past_len == 0 && rows >= text.num_query_token && text.cross_attention => {
                let vision = self.vision_from(vision.shape[0], vision.shape[1], &vision.values)?;
                Some(self.cross_states(&vision).await?)
            }
            _ => None,
        };

        past.reserve(self, keys_count)?;
        let slot = |b: usize, t: usize| (b * past.capacity + t) as u32;
        let table: Vec<u32> = (0..batch).flat_map(|b| (0..keys_count).map(move |t| slot(b, t))).collect();
        let slots: Vec<u32> = (0..batch).flat_map(|b| (past_len..keys_count).map(move |t| slot(b, t))).collect();
        let keys =
            Keys::Cached { table: pool.u32(&[batch, keys_count], &table)?, past: pool.u32(&[1], &[past_len as u32])? };

        let mut r = Recording::new();
        let x = pool.alloc(DType::F32, &[batch * rows, text.hidden_size])?;
        if let Some(embeds) = &inputs.inputs_embeds {
            self.device().write_all(x, &embeds.values)?;
        }
        if let Some(embeds) = &inputs.query_embeds {
            let from = pool.f32(&[batch * queries, text.hidden_size], &embeds.values)?;
            copy_rows(&mut r, from, Rows::all(from), x, Rows { batch, rows: queries, stride: rows, first: 0 });
        }
        if !checked.ids.is_empty() {
            let ids = pool.u32(&[checked.ids.len()], &checked.ids)?;
            let to = Rows { batch, rows: rows - queries, stride: rows, first: queries };
            embed(&mut r, &self.decoder().embed_tokens, ids, x, to);
        }

        let mut observed = Observed::default();
        if inputs.output_attentions {
            for _ in &self.decoder().layers {
                let shape = [batch, text.num_attention_heads, rows, keys_count];
                observed.attentions.push(pool.alloc(DType::F32, &shape)?);
            }
        }
        if let (true, Some(crossed)) = (inputs.output_cross_attentions, &crossed) {
            for _ in crossed.states.layers.iter().flatten() {
                let shape = [batch, text.num_attention_heads, text.num_query_token, crossed.states.rows];
                observed.cross_attentions.push(pool.alloc(DType::F32, &shape)?);
            }
        }
        let pass = Pass {
            embeddings: x,
            batch,
            rows,
            positions: pool.u32(&[batch * rows], &checked.positions)?,
            slots: pool.u32(&[batch * rows], &slots)?,
            caches: &past.caches,
            keys,
            mask,
            cross: crossed.as_ref().map(|c: &Crossed| &c.states),
        };
        let passed = self.decoder().record(&mut r, &pass, &observed);

        let last = passed.last_hidden_state;
        let mut kept_states = Vec::new();
        if inputs.output_hidden_states {
            for state in &passed.hidden_states {
                kept_states.push(if state.id == x.id { *state } else { pool.keep(&mut r, *state)? });
            }
        }
        if inputs.output_last_hidden_state || inputs.output_hidden_states {
            pool.keep(&mut r, last)?;
        }
        let mut logits = None;
        let mut losses = None;
        if inputs.output_logits || inputs.labels.is_some() {
            let all = self.decoder().logits(&mut r, last);
            if let Some(labels) = &inputs.labels {
                // Row s is judged by the label of row s + 1; the last row by none.
                let next = |i: usize| match labels.values.get(i + 1) {
                    Some(&id) if !(i + 1).is_multiple_of(rows) && id != IGNORED_LABEL => id as u32,
                    _ => u32::MAX,
                };
                let shifted: Vec<u32> = (0..batch * rows).map(next).collect();
                let counted = shifted.iter().filter(|l| **l != u32::MAX).count();
                let shifted = pool.u32(&[batch * rows], &shifted)?;
                let loss = cross_entropy(&mut r, all, shifted);
                losses = Some((pool.keep(&mut r, loss)?, counted));
            }
            if inputs.output_logits {
                logits = Some(pool.keep(&mut r, all)?);
            }
        }
        self.device().play(&r)?;
        past.len = keys_count;

        let device = self.device();
        let rows_of = |t: Tensor| [batch, rows, t.width()];
        let mut outputs = Outputs::default();
        if inputs.output_last_hidden_state {
            outputs.last_hidden_state = Some(read(device, last, &rows_of(last)).await?);
        }
        if let Some(logits) = logits {
            outputs.logits = Some(read(device, logits, &rows_of(logits)).await?);
        }
        if let Some((losses, counted)) = losses {
            let sum: f64 = device.read_f32(losses).await?.iter().map(|l| f64::from(*l)).sum();
            outputs.loss = Some((sum / counted as f64) as f32);
        }
        if inputs.output_hidden_states {
            for state in kept_states.into_iter().chain([last]) {
                outputs.hidden_states.push(read(device, state, &rows_of(state)).await?);
            }
        }
        for tensor in &observed.attentions {
            outputs.attentions.push(read(device, *tensor, tensor.shape()).await?);
        }
        for tensor in &observed.cross_attentions {
            outputs.cross_attentions.push(read(device, *tensor, tensor.shape()).await?);
        }
        // Reports what went wrong on the device, also where nothing else was asked for.
        device.read_u32(past.caches[0].k).await?;
        Ok(outputs)
    }
}

async fn read(device: &Device, tensor: Tensor, shape: &[usize]) -> Result<Array<f32>> {
    Ok(Array::new(shape, device.read_f32(tensor).await?))
}
