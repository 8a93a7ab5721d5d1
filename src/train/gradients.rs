//! The gradients of one call of `forward` or `forward_train`: of the adapters in use, of the inputs, and of the weights.

use std::collections::BTreeMap;

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Array, Pool};
use crate::error::{Error, Result};
use crate::model::forward::{Checked, ForwardInputs, Function};
use crate::model::network::{Crossed, Network};
use crate::model::{IGNORED_LABEL, Model};
use crate::nets::decoder::Pass;
use crate::nets::decoder_gradient::{Backward, DecoderGradients, VisionSide};
use crate::ops::attention::{Keys, View};
use crate::ops::gradients::cross_entropy_gradient::cross_entropy_gradient;
use crate::ops::gradients::linear_gradient::linear_gradient;
use crate::ops::gradients::sum_rows::{Groups, add_sum_rows, sum_rows};
use crate::ops::gradients::weight_gradient::{Place, weight_gradient};
use crate::ops::logits::cross_entropy::cross_entropy;
use crate::ops::rows::gather_rows::gather_rows;
use crate::train::wanted::{adapter_gradients, decoder_places, read_adapters, read_places};

/// What is differentiated.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    /// The loss of `forward`: cross-entropy of the labels, which the inputs have.
    Labels,
    /// The sum of `last_hidden_state` times this [B, S, H], of `forward_train` with an additive mask [B, 1, S, S].
    Given { gradient: &'a Array<f32>, additive_mask: Option<&'a Array<f32>> },
}

/// Whose gradients are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// The adapters in use.
    Adapters,
    /// Those, and the inputs.
    Inputs,
    /// Those, and every weight of the decoder.
    All,
}

/// What was computed.
#[derive(Debug, Default)]
pub struct Gradients {
    pub loss: f32,
    /// By the names of `peft`'s files, of the checkpoint's, and of the inputs.
    pub tensors: BTreeMap<String, Array<f32>>,
}

/// The rows whose label counts, and the labels.
struct Counted {
    rows: Vec<u32>,
    labels: Vec<u32>,
}

impl Counted {
    /// Row s is judged by the label of row s + 1; the last row by none.
    fn of(labels: &Array<i64>) -> Result<Counted> {
        let rows_of_sequence = labels.shape[1];
        let mut counted = Counted { rows: Vec::new(), labels: Vec::new() };
        for (i, &label) in labels.values.iter().enumerate() {
            if label != IGNORED_LABEL && !i.is_multiple_of(rows_of_sequence) {
                counted.rows.push(i as u32 - 1);
                counted.labels.push(label as u32);
            }
        }
        if counted.rows.is_empty() {
            let reason = format!("no label counts: each is {IGNORED_LABEL}, or stands in a sequence's first row");
            return Err(Error::Input { reason });
        }
        Ok(counted)
    }
}

impl Model {
    /// The loss, and the gradients of it. Adapters must have been brought by
    /// [`Model::use_adapter`](crate::Model::use_adapter).
    ///
    /// # Errors
    /// Those of [`Model::forward_async`](crate::Model::forward_async); `E_INPUT` where no label counts, and for weights that
    /// are stored in integers; `E_NONFINITE`.
    pub async fn gradients_async(&self, inputs: &ForwardInputs, objective: Objective<'_>, of: Of) -> Result<Gradients> {
        self.run(async |network| network.gradients(inputs, objective, of).await).await
    }
}

/// One call, on the device.
struct Call<'a> {
    network: &'a Network,
    inputs: &'a ForwardInputs,
    checked: &'a Checked,
    /// Cross-attention's keys and values, and the vision rows that they were made of.
    crossed: Option<(Crossed, Tensor)>,
}

impl Network {
    async fn gradients(&self, inputs: &ForwardInputs, objective: Objective<'_>, of: Of) -> Result<Gradients> {
        let text = &self.config.text;
        let function = match objective {
            Objective::Labels => Function::Forward,
            Objective::Given { additive_mask: Some(mask), .. } => Function::Train(mask),
            Objective::Given { additive_mask: None, .. } => Function::TrainUnmasked,
        };
        let checked = inputs.checked(text, None)?;
        if of == Of::All && self.config.quantization.is_some() {
            let reason = "weights stored in integers are not trained: ask for the adapters' and the inputs' gradients";
            return Err(Error::Input { reason: reason.into() });
        }
        let mut pool = self.device().pool();
        let mut call = Call { network: self, inputs, checked: &checked, crossed: None };
        call.cross(&mut pool).await?;
        call.run(&mut pool, objective, function, of).await
    }
}

impl Call<'_> {
    /// The vision rows, and the keys and values that cross-attention makes of them.
    async fn cross(&mut self, pool: &mut Pool) -> Result<()> {
        let text = &self.network.config.text;
        if let Some(vision) = &self.inputs.vision_hidden_states
            && self.checked.rows >= text.num_query_token
            && text.cross_attention
        {
            let states = self.network.vision_from(vision.shape[0], vision.shape[1], &vision.values)?;
            let rows = pool.f32(&[vision.shape[0] * vision.shape[1], vision.shape[2]], &vision.values)?;
            self.crossed = Some((self.network.cross_states(&states).await?, rows));
        }
        Ok(())
    }

    async fn run(
        &self,
        pool: &mut Pool,
        objective: Objective<'_>,
        function: Function<'_>,
        of: Of,
    ) -> Result<Gradients> {
        let (network, device) = (self.network, self.network.device().clone());
        let decoder = network.decoder();
        let Checked { batch, rows, .. } = *self.checked;
        let mut r = device.recording();
        let mask = network.mask(pool, self.inputs, self.checked, function)?;
        let embeddings = network.record_embeddings(&mut r, pool, self.inputs, self.checked)?;
        let slots: Vec<u32> = (0..(batch * rows) as u32).collect();
        let pass = Pass {
            embeddings,
            batch,
            rows,
            positions: pool.u32(&[batch * rows], &self.checked.positions)?,
            slots: pool.u32(&[batch * rows], &slots)?,
            caches: &[],
            keys: Keys::Rows { count: rows, batches: batch },
            mask,
            cross: self.crossed.as_ref().map(|(crossed, _)| &crossed.states),
        };
        let mut to = DecoderGradients { layers: adapter_gradients(pool, decoder)?, ..Default::default() };
        if of == Of::All {
            to.places = decoder_places(pool, &network.config.text, self.crossed.is_some())?;
            self.table_places(pool, &mut to)?;
        }

        let kept = decoder.record_kept(&mut r, &pass);
        let last = kept.last_hidden_state;
        let (d_last, loss) = self.loss(pool, &mut r, objective, last, &to)?;
        let vision = self.vision_side(pool, of)?;
        let backward = Backward { decoder, pass: &pass, kept: &kept, to: &to, vision };
        let dx = backward.record(&mut r, d_last, 0);
        self.table_gradient(pool, &mut r, dx, &to)?;
        let dx = pool.keep(&mut r, dx)?;
        device.play(&r)?;

        let mut out = Gradients { loss: loss.read(&device).await?, ..Default::default() };
        if !out.loss.is_finite() {
            return Err(Error::NonFinite { what: "the loss".into(), index: 0 });
        }
        let stored = |module: &str| format!("base_model.model.{module}");
        out.tensors = read_adapters(&device, decoder, &to.layers, stored).await?;
        out.tensors.extend(read_places(&device, &to).await?);
        if of != Of::Adapters {
            self.read_inputs(&mut out, dx, vision).await?;
        }
        for (name, array) in &out.tensors {
            crate::device::array::check_finite(name, &array.values)?;
        }
        Ok(out)
    }

    /// Room for the gradients of the embedding and of `lm_head`, which may be one table.
    fn table_places(&self, pool: &mut Pool, to: &mut DecoderGradients) -> Result<()> {
        let text = &self.network.config.text;
        let shape = [text.vocab_size, text.hidden_size];
        let tied =
            self.network.checkpoint().tensor(&format!("{}lm_head.weight", self.network.config.prefix())).is_none();
        let names: &[&str] =
            if tied { &["model.embed_tokens.weight"] } else { &["model.embed_tokens.weight", "lm_head.weight"] };
        for name in names {
            let table = pool.alloc(DType::F32, &shape)?;
            to.places.insert(name.to_string(), table);
        }
        Ok(())
    }

    /// The vision rows and memory for their gradient, where the inputs' are wanted or something behind them is trained.
    fn vision_side(&self, pool: &mut Pool, of: Of) -> Result<Option<VisionSide<'_>>> {
        match &self.crossed {
            Some((_, vision)) if of != Of::Adapters => {
                let vision = *vision;
                if self.network.cross_key_values().layers.kept.is_none() {
                    let what = "the vision rows' gradient needs cross-attention's keys and values on the device";
                    return Err(Error::State { reason: format!("{what}: give a larger memory budget") });
                }
                let gradient = pool.alloc(DType::F32, vision.shape())?;
                Ok(Some(VisionSide { key_values: self.network.cross_key_values(), vision, gradient }))
            }
            _ => Ok(None),
        }
    }

    /// The gradient of `last_hidden_state`, and where the loss is found.
    fn loss(
        &self,
        pool: &mut Pool,
        r: &mut Recording,
        objective: Objective<'_>,
        last: Tensor,
        to: &DecoderGradients,
    ) -> Result<(Tensor, Loss)> {
        match objective {
            Objective::Given { gradient, .. } => {
                if gradient.values.len() != last.len() {
                    return Err(Error::InputShape {
                        what: "grad.last_hidden_state".into(),
                        expected: format!("[{}, {}, {}]", self.checked.batch, self.checked.rows, last.width()),
                        found: format!("{:?}", gradient.shape),
                    });
                }
                let last = pool.keep(r, last)?;
                let d_last = pool.f32(last.shape(), &gradient.values)?;
                Ok((d_last, Loss::Product { last, gradient: gradient.values.clone() }))
            }
            Objective::Labels => {
                let labels = self
                    .inputs
                    .labels
                    .as_ref()
                    .ok_or_else(|| Error::Input { reason: "the loss needs labels".into() })?;
                let Counted { rows, labels } = Counted::of(labels)?;
                let decoder = self.network.decoder();
                let count = rows.len();
                let index = pool.u32(&[count], &rows)?;
                let labels = pool.u32(&[count], &labels)?;
                let hidden = gather_rows(r, last, index);
                let logits = decoder.logits(r, hidden);
                let losses = cross_entropy(r, logits, labels);
                let losses = pool.keep(r, losses)?;
                let weights = pool.f32(&[count], &vec![1.0 / count as f32; count])?;
                let dlogits = cross_entropy_gradient(r, logits, labels, weights);
                let table = to.places.get("lm_head.weight").or(to.places.get("model.embed_tokens.weight"));
                if let Some(table) = table {
                    weight_gradient(r, View::all(dlogits), View::all(hidden), None, Place::all(table));
                }
                let d_hidden = linear_gradient(r, dlogits, decoder.head(), None);
                let groups = Groups::of_gathered(pool, last.rows(), &rows)?;
                Ok((sum_rows(r, d_hidden, groups, 1.0), Loss::Mean { losses }))
            }
        }
    }

    /// The gradient of the embedding: every row's goes to its id. The padding id's stays 0.
    fn table_gradient(&self, pool: &mut Pool, r: &mut Recording, dx: Tensor, to: &DecoderGradients) -> Result<()> {
        let Some(table) = to.places.get("model.embed_tokens.weight") else { return Ok(()) };
        let Checked { batch, rows, queries, ref ids, .. } = *self.checked;
        let mut groups = vec![Vec::new(); table.rows()];
        for (i, &id) in ids.iter().enumerate() {
            let text_rows = ids.len() / batch;
            if id != self.network.config.text.pad_token_id {
                groups[id as usize].push((i / text_rows * rows + queries + i % text_rows) as u32);
            }
        }
        let groups = Groups::new(pool, &groups)?;
        add_sum_rows(r, dx, groups, 1.0, table);
        Ok(())
    }

    /// The gradients of the inputs, from that of the joined rows.
    async fn read_inputs(&self, out: &mut Gradients, dx: Tensor, vision: Option<VisionSide<'_>>) -> Result<()> {
        let device = self.network.device();
        let Checked { batch, rows, queries, .. } = *self.checked;
        let width = dx.width();
        let values = device.read_numbers("the gradient of inputs_embeds", dx).await?;
        if queries > 0 {
            let of_queries: Vec<f32> =
                values.chunks(rows * width).flat_map(|sequence| &sequence[..queries * width]).copied().collect();
            out.tensors.insert("query_embeds".into(), Array::new(&[batch, queries, width], of_queries));
        }
        out.tensors.insert("inputs_embeds".into(), Array::new(&[batch, rows, width], values));
        if let (Some(side), Some(given)) = (vision, &self.inputs.vision_hidden_states) {
            let values = device.read_numbers("the gradient of vision_hidden_states", side.gradient).await?;
            out.tensors.insert("vision_hidden_states".into(), Array::new(&given.shape, values));
        }
        Ok(())
    }
}

/// Where a loss is found when the recording was played.
enum Loss {
    /// The mean of each row's.
    Mean { losses: Tensor },
    /// The sum of `last_hidden_state` times a given gradient.
    Product { last: Tensor, gradient: Vec<f32> },
}

impl Loss {
    async fn read(self, device: &crate::device::Device) -> Result<f32> {
        let sum = |values: Vec<f64>| values.into_iter().sum::<f64>();
        Ok(match self {
            Loss::Mean { losses } => {
                let losses = device.read_numbers("losses", losses).await?;
                (sum(losses.iter().map(|l| f64::from(*l)).collect()) / losses.len() as f64) as f32
            }
            Loss::Product { last, gradient } => {
                let last = device.read_numbers("last_hidden_state", last).await?;
                sum(last.iter().zip(&gradient).map(|(a, b)| f64::from(*a) * f64::from(*b)).collect()) as f32
            }
        })
    }
}
