//! One training step on the device: the loss of a batch, its gradient, and the move of what is trained. What a shape of
//! batch needs is recorded and prepared once.

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Array, Device, Plan, Pool};
use crate::error::{Error, Result};
use crate::model::IGNORED_LABEL;
use crate::model::network::Network;
use crate::nets::decoder::{CrossStates, Pass};
use crate::nets::decoder_gradient::{Backward, DecoderGradients};
use crate::nets::lora::values_of;
use crate::ops::Rows;
use crate::ops::attention::{Keys, Mask, View};
use crate::ops::gradients::adamw::{AdamW, STEP_LEN, Trained, adamw};
use crate::ops::gradients::cross_entropy_gradient::cross_entropy_gradient;
use crate::ops::gradients::linear_gradient::linear_gradient;
use crate::ops::gradients::squares::{parts, squares};
use crate::ops::gradients::sum_rows::{Groups, sum_rows};
use crate::ops::gradients::weight_gradient::{Place, weight_gradient};
use crate::ops::logits::cross_entropy::{IGNORED, cross_entropy};
use crate::ops::rows::copy_rows::copy_rows;
use crate::ops::rows::embed::embed;
use crate::ops::rows::gather_rows::gather_rows;
use crate::train::wanted::adapter_gradients;

/// What a step learns from: captions behind query tokens, padded on the right to one length.
#[derive(Clone, Debug)]
pub struct Batch {
    /// [B, T] ids, 0 where there is padding.
    pub input_ids: Array<i64>,
    /// [B, N + T], 1 for rows that may be seen.
    pub attention_mask: Array<i64>,
    /// [B, N + T], -100 for rows that do not count.
    pub labels: Array<i64>,
    /// [B, N, hidden_size] in place of the model's query tokens.
    pub query_embeds: Option<Array<f32>>,
    /// [images, rows, vision_hidden_size]; B is a multiple of images.
    pub vision_hidden_states: Option<Array<f32>>,
}

/// What decides the recording of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    batch: usize,
    queries: usize,
    text: usize,
    /// Images and vision rows.
    vision: Option<(usize, usize)>,
    given_queries: bool,
    /// The first row of a sequence whose logits are made.
    first: usize,
    /// Whether gradients are added to those of the batch before.
    add: bool,
}

impl Shape {
    fn rows(&self) -> usize {
        self.queries + self.text
    }

    /// Rows of a sequence whose logits are made: the last one judges nothing.
    fn judged(&self) -> usize {
        self.rows() - 1 - self.first
    }
}

/// A row that is judged by the label of the next.
struct Judged {
    sequence: usize,
    row: usize,
    label: u32,
}

/// A recording that is ready, and what is written to it before each run.
struct Ready {
    shape: Shape,
    plan: Plan,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    weights: Tensor,
    queries: Option<Tensor>,
    vision: Option<Tensor>,
    losses: Tensor,
    _pool: Pool,
}

/// The trained tensors of a model, and the recordings that move them.
pub(crate) struct Stepper {
    device: Device,
    gradients: DecoderGradients,
    head_gradient: Option<Tensor>,
    /// In one order, always: state is saved by it.
    pub trained: Vec<Trained>,
    /// The parts of the squares of all gradients.
    sums: Tensor,
    step: Tensor,
    update: Plan,
    ready: Vec<Ready>,
    _pool: Pool,
}

impl Stepper {
    /// Makes room for the gradients and moments of the adapters in use, which lie in buffers.
    pub fn new(network: &Network, settings: AdamW) -> Result<Stepper> {
        let device = network.device().clone();
        let decoder = network.decoder();
        let mut pool = device.pool();
        let layers = adapter_gradients(&mut pool, decoder)?;
        let head_gradient = match &decoder.learned.lm_head {
            Some(head) => Some(pool.alloc(DType::F32, values_of(head).shape())?),
            None => None,
        };
        let mut pairs = Vec::new();
        for (adapters, gradients) in decoder.learned.layers.iter().zip(&layers) {
            let all = [
                (&adapters.qkv, gradients.qkv),
                (&adapters.o, gradients.o),
                (&adapters.gate_up, gradients.gate_up),
                (&adapters.down, gradients.down),
            ];
            for (lora, gradient) in all {
                if let (Some(lora), Some(gradient)) = (lora, gradient) {
                    pairs.push((values_of(&lora.a), gradient.a));
                    pairs.push((values_of(&lora.b), gradient.b));
                }
            }
        }
        if let (Some(head), Some(gradient)) = (&decoder.learned.lm_head, head_gradient) {
            pairs.push((values_of(head), gradient));
        }
        let mut trained = Vec::with_capacity(pairs.len());
        for (weight, gradient) in pairs {
            let mut moment = || pool.alloc(DType::F32, weight.shape());
            trained.push(Trained { weight, mean: moment()?, square: moment()?, gradient });
        }
        let sums = pool.alloc(DType::F32, &[trained.iter().map(|t| parts(t.gradient.len())).sum()])?;
        let step = pool.alloc(DType::F32, &[STEP_LEN])?;
        let mut r = device.recording();
        trained.iter().for_each(|trained| adamw(&mut r, *trained, settings, step));
        let update = device.prepare(&r)?;
        let gradients = DecoderGradients { layers, ..Default::default() };
        Ok(Stepper { device, gradients, head_gradient, trained, sums, step, update, ready: Vec::new(), _pool: pool })
    }

    /// Makes the gradients of the mean loss of a batch, times `share`; with `add`, added to those of the batch before.
    /// Returns the loss.
    pub async fn gradients(&mut self, network: &Network, batch: &Batch, share: f32, add: bool) -> Result<f32> {
        let (shape, rows) = shape_of(network, batch, add)?;
        let ready = self.ready(network, shape)?;
        let device = &network.device().clone();
        write_batch(device, ready, batch, &rows, share)?;
        device.run(&ready.plan)?;
        let losses = device.read_numbers("losses", ready.losses).await?;
        Ok((losses.iter().map(|l| f64::from(*l)).sum::<f64>() / rows.len() as f64) as f32)
    }

    /// The mean loss of a batch alone.
    pub async fn loss(&mut self, network: &Network, batch: &Batch) -> Result<f32> {
        self.gradients(network, batch, 0.0, false).await
    }

    /// The norm of all gradients together.
    pub async fn norm(&self) -> Result<f32> {
        let sums = self.device.read_numbers("the gradients' sum of squares", self.sums).await?;
        Ok(sums.iter().map(|s| f64::from(*s)).sum::<f64>().sqrt() as f32)
    }

    /// Moves what is trained: `numbers` are those of [`adamw`].
    pub fn update(&self, numbers: [f32; STEP_LEN]) -> Result<()> {
        self.device.write_all(self.step, &numbers)?;
        self.device.run(&self.update)
    }

    fn ready(&mut self, network: &Network, shape: Shape) -> Result<&Ready> {
        if let Some(at) = self.ready.iter().position(|ready| ready.shape == shape) {
            return Ok(&self.ready[at]);
        }
        let ready = self.prepare(network, shape)?;
        self.ready.push(ready);
        Ok(self.ready.last().expect("it was pushed"))
    }

    fn prepare(&mut self, network: &Network, shape: Shape) -> Result<Ready> {
        let (device, decoder) = (network.device(), network.decoder());
        let Shape { batch, queries, text, first, .. } = shape;
        let (rows, width) = (shape.rows(), decoder.config.hidden_size);
        let mut pool = device.pool();
        let mut r = device.recording();
        let ids = pool.alloc(DType::U32, &[batch * text])?;
        let mask = pool.alloc(DType::U32, &[batch, rows])?;
        let x = r.scratch_f32(&[batch * rows, width]);
        let given = match (queries, shape.given_queries) {
            (0, _) => None,
            (_, true) => {
                let from = pool.alloc(DType::F32, &[batch * queries, width])?;
                copy_rows(&mut r, from, Rows::all(from), x, Rows { batch, rows: queries, stride: rows, first: 0 });
                Some(from)
            }
            (_, false) => {
                network.record_queries(&mut r, x, batch, rows)?;
                None
            }
        };
        embed(&mut r, &decoder.embed_tokens, ids, x, Rows { batch, rows: text, stride: rows, first: queries });
        let (vision, crossed) = match shape.vision {
            Some((images, vision_rows)) => {
                let vision = pool.alloc(DType::F32, &[images * vision_rows, decoder.config.vision_hidden_size])?;
                (Some(vision), Some(cross_states(network, &mut r, vision, images)?))
            }
            None => (None, None),
        };
        let positions: Vec<u32> = (0..batch).flat_map(|_| 0..rows as u32).collect();
        let pass = Pass {
            embeddings: x,
            batch,
            rows,
            positions: pool.u32(&[batch * rows], &positions)?,
            slots: pool.u32(&[batch * rows], &(0..(batch * rows) as u32).collect::<Vec<_>>())?,
            caches: &[],
            keys: Keys::Rows { count: rows, batches: batch },
            mask: Mask::Causal { attention_mask: Some(mask), zero_queries: queries },
            cross: crossed.as_ref(),
        };
        let kept = decoder.record_kept(&mut r, &pass);
        let judged: Vec<u32> =
            (0..batch).flat_map(|b| (first..rows - 1).map(move |row| (b * rows + row) as u32)).collect();
        let labels = pool.alloc(DType::U32, &[judged.len()])?;
        let weights = pool.alloc(DType::F32, &[judged.len()])?;
        let index = pool.u32(&[judged.len()], &judged)?;
        let hidden = gather_rows(&mut r, kept.last_hidden_state, index);
        let logits = decoder.logits(&mut r, hidden);
        let losses = cross_entropy(&mut r, logits, labels);
        let losses = pool.keep(&mut r, losses)?;
        let dlogits = cross_entropy_gradient(&mut r, logits, labels, weights);
        if let Some(gradient) = self.head_gradient {
            let (rows, add) = (decoder.head().rows, shape.add);
            let place = Place { tensor: gradient, blocks: true, row: 0, column: 0, rows, cols: width, add };
            weight_gradient(&mut r, View::all(dlogits), View::all(hidden), None, place);
        }
        let d_hidden = linear_gradient(&mut r, dlogits, decoder.head(), None);
        let d_last = sum_rows(&mut r, d_hidden, Groups::of_gathered(&mut pool, batch * rows, &judged)?, 1.0);
        self.gradients.places.add = shape.add;
        let backward = Backward { decoder, pass: &pass, kept: &kept, to: &self.gradients, vision: None };
        backward.record(&mut r, d_last, 0);
        self.record_squares(&mut r);
        let plan = device.prepare(&r)?;
        Ok(Ready { shape, plan, ids, mask, labels, weights, queries: given, vision, losses, _pool: pool })
    }

    fn record_squares(&self, r: &mut Recording) {
        let mut first = 0;
        for trained in &self.trained {
            squares(r, trained.gradient, self.sums, first);
            first += parts(trained.gradient.len());
        }
    }
}

/// Cross-attention's keys and values of vision rows [images * rows, vision_hidden_size].
fn cross_states(network: &Network, r: &mut Recording, vision: Tensor, images: usize) -> Result<CrossStates> {
    let config = &network.decoder().config;
    let cross = network.cross_key_values();
    let Some(layers) = &cross.layers.kept else {
        let reason = "training needs cross-attention's weights on the device: give a larger memory budget";
        return Err(Error::State { reason: reason.into() });
    };
    let states: Vec<Option<Tensor>> = (0..config.num_hidden_layers)
        .map(|i| config.cross_attends(i).then(|| r.scratch_f32(&[vision.rows(), 2 * config.hidden_size])))
        .collect();
    let states = CrossStates { layers: states, images, rows: vision.rows() / images };
    layers.iter().enumerate().for_each(|(i, layer)| cross.record(r, i, layer, vision, &states));
    Ok(states)
}

/// The shape of a batch, and its rows that count: sequence, row and label.
fn shape_of(network: &Network, batch: &Batch, add: bool) -> Result<(Shape, Vec<Judged>)> {
    let &[count, text] = &batch.input_ids.shape[..] else { panic!("input_ids {:?}", batch.input_ids.shape) };
    let rows = batch.labels.shape[1];
    let queries = rows - text;
    let mut judged = Vec::new();
    for (i, &label) in batch.labels.values.iter().enumerate() {
        let (sequence, row) = (i / rows, i % rows);
        if label != IGNORED_LABEL && row > 0 {
            judged.push(Judged { sequence, row: row - 1, label: label as u32 });
        }
    }
    let Some(first) = judged.iter().map(|judged| judged.row).min() else {
        return Err(Error::Input { reason: format!("no label counts: each is {IGNORED_LABEL}") });
    };
    let limit = network.decoder().config.max_position_embeddings;
    if rows > limit {
        return Err(Error::Context { need: rows, max: limit });
    }
    let vision = batch.vision_hidden_states.as_ref().map(|v| (v.shape[0], v.shape[1]));
    let given_queries = batch.query_embeds.is_some();
    Ok((Shape { batch: count, queries, text, vision, given_queries, first, add }, judged))
}

fn write_batch(device: &Device, ready: &Ready, batch: &Batch, judged: &[Judged], share: f32) -> Result<()> {
    let whole = |values: &[i64]| values.iter().map(|&v| v as u32).collect::<Vec<_>>();
    device.write_all(ready.ids, &whole(&batch.input_ids.values))?;
    device.write_all(ready.mask, &whole(&batch.attention_mask.values))?;
    let shape = ready.shape;
    let count = shape.batch * shape.judged();
    let (mut labels, mut weights) = (vec![IGNORED; count], vec![0.0f32; count]);
    for &Judged { sequence, row, label } in judged {
        let at = sequence * shape.judged() + row - shape.first;
        labels[at] = label;
        weights[at] = share / judged.len() as f32;
    }
    device.write_all(ready.labels, &labels)?;
    device.write_all(ready.weights, &weights)?;
    if let (Some(tensor), Some(given)) = (ready.queries, &batch.query_embeds) {
        device.write_all(tensor, &given.values)?;
    }
    if let (Some(tensor), Some(given)) = (ready.vision, &batch.vision_hidden_states) {
        device.write_all(tensor, &given.values)?;
    }
    Ok(())
}
