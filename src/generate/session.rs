//! Generation: the prompt once, then a token a step, chosen on the device. The step's recording, bind groups and
//! buffers are made once; greedy search brings 4 bytes a sequence back, beams a few candidates.

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Device, Plan, Pool, Reader};
use crate::error::{Error, Result};
use crate::files::config::LlamaConfig;
use crate::generate::beams::{BeamOptions, BeamSearch, EarlyStopping};
use crate::nets::decoder::{CrossStates, Layer, Observed, Pass, Qllama};
use crate::ops::Rows;
use crate::ops::attention::{Keys, Mask};
use crate::ops::cache::advance::advance;
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::cache::reorder::reorder;
use crate::ops::logits::argmax::argmax;
use crate::ops::logits::log_softmax::log_softmax;
use crate::ops::logits::penalize::{Penalties, penalize};
use crate::ops::logits::sample::sample;
use crate::ops::logits::sampling::{MAX_TEMPERATURE, MIN_TEMPERATURE, Sampling};
use crate::ops::logits::top_k::{MAX_K, top_k};
use crate::ops::rows::embed::embed;
use crate::ops::rows::gather_rows::gather_rows;

/// What generation starts from.
pub struct Prompt<'a> {
    /// [batch * rows, hidden_size]
    pub embeddings: Tensor,
    pub batch: usize,
    pub rows: usize,
    /// [batch * rows], 1 for rows that may be seen and 0 for padding.
    pub attention_mask: &'a [u32],
    /// The first rows that see each other both ways, whatever the mask says (`use_zero_attention_mask`).
    pub zero_queries: usize,
    pub cross: Option<&'a CrossStates>,
    /// What `repetition_penalty` and `no_repeat_ngram_size` see before the generated ids, [batch, any number]: one BOS
    /// each for a prompt of embeddings, as Hugging Face's library has it, and the ids of a prompt of ids.
    pub history: &'a [u32],
}

/// Hugging Face's generation options, with their names and defaults.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    pub min_new_tokens: usize,
    pub num_beams: usize,
    /// At most `num_beams`; when sampling, sequences drawn for each prompt.
    pub num_return_sequences: usize,
    pub length_penalty: f32,
    pub early_stopping: EarlyStopping,
    pub repetition_penalty: f32,
    pub no_repeat_ngram_size: usize,
    pub eos_token_ids: Vec<u32>,
    /// Draw tokens at random instead of taking the most likely.
    pub sampling: Option<Sampling>,
    /// Storage of cached keys and values: F32, or F16 for half the memory and less to read.
    pub kv_cache: DType,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: 32,
            min_new_tokens: 0,
            num_beams: 1,
            num_return_sequences: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::False,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            eos_token_ids: vec![2],
            sampling: None,
            kv_cache: DType::F32,
        }
    }
}

/// Sequences that may be drawn for one prompt.
const MAX_SEQUENCES: usize = 256;

impl GenerateOptions {
    /// Checks what does not depend on the model; see [`GenerateOptions::check_for`].
    ///
    /// # Errors
    /// `E_INPUT` for a value out of range or a combination that is not supported.
    pub fn check(&self) -> Result<()> {
        let fail = |reason: &str| Err(Error::Input { reason: reason.into() });
        if self.max_new_tokens == 0 {
            return fail("max_new_tokens must be at least 1");
        }
        if self.min_new_tokens > self.max_new_tokens {
            return fail("min_new_tokens must not be above max_new_tokens");
        }
        if self.num_beams == 0 || self.num_beams > 16 {
            return fail("num_beams must be from 1 to 16");
        }
        if self.num_beams > 1 && self.sampling.is_some() {
            return fail("num_beams above 1 together with do_sample is not supported: use one of them");
        }
        if (1 + self.eos_token_ids.len()).max(2) * self.num_beams > MAX_K && self.num_beams > 1 {
            return fail("too many end ids for so many beams: (1 + end ids) * num_beams must be at most 64");
        }
        let most = if self.sampling.is_some() { MAX_SEQUENCES } else { self.num_beams };
        if self.num_return_sequences == 0 || self.num_return_sequences > most {
            let found = self.num_return_sequences;
            return Err(Error::Input {
                reason: format!(
                    "num_return_sequences must be from 1 to {most}, found {found}: at most num_beams, or \
                     {MAX_SEQUENCES} with do_sample"
                ),
            });
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return fail("repetition_penalty must be above 0");
        }
        if !self.length_penalty.is_finite() {
            return fail("length_penalty must be a finite number");
        }
        if !matches!(self.kv_cache, DType::F32 | DType::F16) {
            return fail("kv_cache must be F32 or F16");
        }
        if let Some(s) = &self.sampling {
            if !(MIN_TEMPERATURE..=MAX_TEMPERATURE).contains(&s.temperature) {
                return fail("temperature must be from 0.000001 to 1000000");
            }
            if !(s.top_p > 0.0 && s.top_p <= 1.0) {
                return fail("top_p must be above 0 and at most 1");
            }
        }
        Ok(())
    }

    /// What depends on the model: end ids within its vocabulary, and positions within its limit for a prompt of
    /// `rows` rows that may be seen.
    ///
    /// # Errors
    /// `E_TOKEN`, `E_CONTEXT`; `E_INPUT` for beams when every id ends a text, and for a cache in f16 with heads that it
    /// does not take.
    pub fn check_for(&self, config: &LlamaConfig, rows: usize) -> Result<()> {
        let (vocab, max) = (config.vocab_size, config.max_position_embeddings);
        if let Some(index) = self.eos_token_ids.iter().position(|&id| id as usize >= vocab) {
            return Err(Error::Token { index, id: self.eos_token_ids[index].into(), vocab });
        }
        if self.num_beams > 1 && (0..vocab as u32).all(|id| self.eos_token_ids.contains(&id)) {
            let reason =
                format!("all {vocab} ids of the vocabulary are end ids: beam search has nothing to continue with");
            return Err(Error::Input { reason });
        }
        if self.kv_cache == DType::F16 && !config.head_dim.is_multiple_of(4) {
            let reason = format!("a cache in f16 needs heads of a multiple of 4 columns, found {}", config.head_dim);
            return Err(Error::Input { reason });
        }
        // The last new token is never fed back.
        let need = rows.saturating_add(self.max_new_tokens) - 1;
        if need > max { Err(Error::Context { need, max }) } else { Ok(()) }
    }

    /// Sequences that run side by side for each prompt.
    fn copies(&self) -> usize {
        if self.sampling.is_some() { self.num_return_sequences } else { self.num_beams }
    }

    fn penalised(&self) -> bool {
        self.repetition_penalty != 1.0 || self.no_repeat_ngram_size > 0 || self.min_new_tokens > 0
    }
}

/// One generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// New ids, the end id included where it was reached.
    pub ids: Vec<u32>,
    /// Beam search's score; 0 for greedy search and sampling.
    pub score: f32,
}

/// Generates from a prompt. `on_token` is told of each token of greedy search and sampling as `Some((row, id))`, the
/// sequences drawn for one prompt being rows beside each other, and
/// of each step of beam search as `None`; when it returns false, generation ends with [`Error::Aborted`].
/// Returns `num_return_sequences` sequences for each row of the prompt, best first.
///
/// # Errors
/// `E_INPUT` for bad options, `E_CONTEXT` when positions would go beyond the model's, `E_NONFINITE` when logits are
/// not numbers, `E_ABORTED`, and the device's errors.
pub async fn generate(
    model: &Qllama,
    device: &Device,
    prompt: &Prompt<'_>,
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(Option<(usize, u32)>) -> bool,
) -> Result<Vec<Vec<Generated>>> {
    options.check()?;
    let mut session = Session::new(model, device, prompt, options)?;
    model.decode_dispatches.set(session.decode.plan.dispatches);
    if options.num_beams > 1 { session.beams(on_token).await } else { session.single(on_token).await }
}

/// The buffers and plans of one generation.
struct Session<'a> {
    options: &'a GenerateOptions,
    device: Device,
    _pool: Pool,
    /// The keys and values.
    _caches: Pool,
    batch: usize,
    state: State,
    prefill: Step,
    decode: Step,
    reader: Reader,
    history: Vec<u32>,
}

/// A pass through the model, made once, and what it leaves for the host: the chosen tokens, or the beams' candidates.
struct Step {
    plan: Plan,
    /// U32 [rows]; or F32 and U32 [rows, candidates], best first.
    chosen: Vec<Tensor>,
}

/// What a step reads and writes; a row is a sequence, or a beam of one.
struct State {
    rows: usize,
    /// U32 [rows]: the ids that the next step starts from.
    tokens: Tensor,
    /// U32 [rows]: their positions.
    positions: Tensor,
    /// U32 [rows]: the cache rows that their keys and values go to.
    slots: Tensor,
    /// U32 [1]: keys in the cache.
    past: Tensor,
    /// U32 [rows, capacity]: the cache row of each key.
    table: Tensor,
    /// U32 [rows]: the row that each beam continues.
    parents: Tensor,
    /// U32 [rows, history capacity] and U32 [2]: ids that penalties see.
    history: Tensor,
    lengths: Tensor,
    eos: Tensor,
}

impl<'a> Session<'a> {
    fn new(model: &'a Qllama, device: &Device, prompt: &Prompt, options: &'a GenerateOptions) -> Result<Session<'a>> {
        let (batch, prompt_rows, beams) = (prompt.batch, prompt.rows, options.copies());
        let rows = batch * beams;
        let new = options.max_new_tokens;
        let capacity = prompt_rows + new;
        let kept: Vec<usize> =
            prompt.attention_mask.chunks(prompt_rows).map(|m| m.iter().sum::<u32>() as usize).collect();
        options.check_for(&model.config, kept.iter().max().copied().unwrap_or(0))?;

        let mut pool = device.pool();
        let heads = model.heads();
        // The prompt's keys stand once a picture; behind them each beam has rows of its own for what it generates.
        let cache_rows = batch * prompt_rows + rows * new;
        let mut cache_pool = device.pool();
        let cache = |_: &Layer| KvCache::alloc(&mut cache_pool, options.kv_cache, cache_rows, heads);
        let caches = model.layers.iter().map(cache).collect::<Result<Vec<_>>>()?;
        let own = |row: usize, t: usize| (batch * prompt_rows + row * new + t - prompt_rows) as u32;
        let table: Vec<u32> = (0..rows)
            .flat_map(|row| {
                let first = row / beams * prompt_rows;
                (0..capacity).map(move |t| if t < prompt_rows { (first + t) as u32 } else { own(row, t) })
            })
            .collect();
        let slots: Vec<u32> = (0..rows).map(|row| own(row, prompt_rows)).collect();
        let positions: Vec<u32> = (0..rows).map(|row| kept[row / beams] as u32).collect();
        let history_rows = prompt.history.len() / batch + new;
        let state = State {
            rows,
            tokens: pool.alloc(DType::U32, &[rows])?,
            positions: pool.u32(&[rows], &positions)?,
            slots: pool.u32(&[rows], &slots)?,
            past: pool.u32(&[1], &[prompt_rows as u32])?,
            table: pool.u32(&[rows, capacity], &table)?,
            parents: pool.u32(&[rows], &(0..rows as u32).collect::<Vec<_>>())?,
            history: pool.alloc(DType::U32, &[rows, history_rows])?,
            lengths: pool.alloc(DType::U32, &[2])?,
            eos: pool.u32(
                &[options.eos_token_ids.len().max(1)],
                if options.eos_token_ids.is_empty() { &[u32::MAX] } else { &options.eos_token_ids },
            )?,
        };
        let padded = prompt.attention_mask.contains(&0);
        let prompt_mask = padded.then(|| pool.u32(&[batch, prompt_rows], prompt.attention_mask)).transpose()?;
        let decode_mask: Vec<u32> = (0..rows)
            .flat_map(|row| {
                let of_prompt = &prompt.attention_mask[row / beams * prompt_rows..][..prompt_rows];
                of_prompt.iter().copied().chain(std::iter::repeat_n(1, new))
            })
            .collect();
        let decode_mask = padded.then(|| pool.u32(&[rows, capacity], &decode_mask)).transpose()?;

        let mut r = Recording::new();
        let prompt_positions: Vec<u32> = prompt
            .attention_mask
            .chunks(prompt_rows)
            .flat_map(|mask| {
                mask.iter().scan(0, |ones, &m| {
                    *ones += m;
                    Some(if m == 0 { 1 } else { *ones - 1 })
                })
            })
            .collect();
        let all = batch * prompt_rows;
        let pass = Pass {
            embeddings: prompt.embeddings,
            batch,
            rows: prompt_rows,
            positions: pool.u32(&[all], &prompt_positions)?,
            slots: pool.u32(&[all], &(0..all as u32).collect::<Vec<_>>())?,
            caches: &caches,
            keys: Keys::Rows { count: prompt_rows, batches: batch },
            mask: Mask::Causal { attention_mask: prompt_mask, zero_queries: prompt.zero_queries },
            cross: prompt.cross,
        };
        let passed = model.record(&mut r, &pass, &Observed::default());
        let last: Vec<u32> = (0..batch).map(|b| ((b + 1) * prompt_rows - 1) as u32).collect();
        let last = pool.u32(&[batch], &last)?;
        let hidden = gather_rows(&mut r, passed.last_hidden_state, last);
        let mut logits = model.logits(&mut r, hidden);
        if beams > 1 {
            let each = pool.u32(&[rows], &(0..rows).map(|row| (row / beams) as u32).collect::<Vec<_>>())?;
            logits = gather_rows(&mut r, logits, each);
        }
        let chosen = state.choose(&mut r, logits, options, &mut pool)?;
        let prefill = Step { plan: device.prepare(&r)?, chosen };

        let mut r = Recording::new();
        if options.num_beams > 1 {
            reorder(&mut r, state.table, state.parents, state.past, prompt_rows, beams);
        }
        let x = r.scratch_f32(&[rows, model.config.hidden_size]);
        embed(&mut r, &model.embed_tokens, state.tokens, x, Rows::all(x));
        let pass = Pass {
            embeddings: x,
            batch: rows,
            rows: 1,
            positions: state.positions,
            slots: state.slots,
            caches: &caches,
            keys: Keys::Cached { table: state.table, past: state.past },
            mask: Mask::Causal { attention_mask: decode_mask, zero_queries: 0 },
            cross: None,
        };
        let passed = model.record(&mut r, &pass, &Observed::default());
        let logits = model.logits(&mut r, passed.last_hidden_state);
        advance(&mut r, state.table, state.past, state.positions, state.slots);
        let chosen = state.choose(&mut r, logits, options, &mut pool)?;
        let decode = Step { plan: device.prepare(&r)?, chosen };
        let reader = device.reader(decode.chosen.iter().map(|t| t.size_bytes()).sum())?;
        Ok(Session {
            options,
            device: device.clone(),
            _pool: pool,
            _caches: cache_pool,
            batch,
            state,
            prefill,
            decode,
            reader,
            history: prompt.history.to_vec(),
        })
    }

    /// Greedy search and sampling.
    async fn single(&mut self, on_token: &mut dyn FnMut(Option<(usize, u32)>) -> bool) -> Result<Vec<Vec<Generated>>> {
        let rows = self.state.rows;
        let mut ids: Vec<Vec<u32>> = vec![Vec::new(); rows];
        let mut open = vec![true; rows];
        let mut chosen = vec![0u32; rows];
        for step in 0..self.options.max_new_tokens {
            self.tell_history(|row| &ids[row])?;
            self.run(step, &mut chosen).await?;
            for (row, &id) in chosen.iter().enumerate() {
                if id == u32::MAX {
                    return Err(not_finite(step));
                }
                // A finished row goes on with padding, which nobody is told of.
                ids[row].push(if open[row] { id } else { 0 });
                if open[row] {
                    open[row] = !self.options.eos_token_ids.contains(&id);
                    if !on_token(Some((row, id))) {
                        return Err(Error::Aborted);
                    }
                }
            }
            if !open.contains(&true) {
                break;
            }
        }
        let cut = |mut ids: Vec<u32>| {
            if let Some(end) = ids.iter().position(|id| self.options.eos_token_ids.contains(id)) {
                ids.truncate(end + 1);
            }
            Generated { ids, score: 0.0 }
        };
        let all: Vec<Generated> = ids.into_iter().map(cut).collect();
        Ok(all.chunks(rows / self.batch).map(<[_]>::to_vec).collect())
    }

    async fn beams(&mut self, on_token: &mut dyn FnMut(Option<(usize, u32)>) -> bool) -> Result<Vec<Vec<Generated>>> {
        let beams = self.options.num_beams;
        let options = BeamOptions {
            num_beams: beams,
            num_return_sequences: self.options.num_return_sequences,
            length_penalty: self.options.length_penalty,
            early_stopping: self.options.early_stopping,
            max_new_tokens: self.options.max_new_tokens,
            eos_token_ids: self.options.eos_token_ids.clone(),
        };
        let mut searches: Vec<BeamSearch> = (0..self.batch).map(|_| BeamSearch::new(options.clone())).collect();
        let count = self.prefill.chosen[0].width();
        let mut words = vec![0u32; 2 * self.state.rows * count];
        for step in 0..self.options.max_new_tokens {
            self.tell_history(|row| searches[row / beams].ids(row % beams))?;
            self.run(step, &mut words).await?;
            let (values, ids) = words.split_at(self.state.rows * count);
            if ids.chunks(count).any(|row| row[0] == u32::MAX) {
                return Err(not_finite(step));
            }
            let candidate = |i: usize| (f32::from_bits(values[i]), ids[i]);
            let of_row = |row: usize| {
                (row * count..(row + 1) * count).map(candidate).filter(|c| c.1 != u32::MAX).collect::<Vec<_>>()
            };
            let (mut parents, mut tokens, mut done) = (Vec::new(), Vec::new(), true);
            for (picture, search) in searches.iter_mut().enumerate() {
                let rows: Vec<_> = (picture * beams..(picture + 1) * beams).map(of_row).collect();
                let chosen = search.step(&rows);
                parents.extend(chosen.parents.iter().map(|p| (picture * beams + p) as u32));
                tokens.extend(chosen.tokens);
                done &= chosen.done;
            }
            if !on_token(None) {
                return Err(Error::Aborted);
            }
            if done {
                break;
            }
            self.device.write_all(self.state.parents, &parents)?;
            self.device.write_all(self.state.tokens, &tokens)?;
        }
        let sequences = |search: BeamSearch| {
            search.finish().into_iter().map(|h| Generated { ids: h.ids, score: h.score }).collect()
        };
        Ok(searches.into_iter().map(sequences).collect())
    }

    /// Runs the prompt, or the step after it, and brings back what it chose.
    async fn run(&self, step: usize, out: &mut [u32]) -> Result<()> {
        let step = if step == 0 { &self.prefill } else { &self.decode };
        self.device.run(&step.plan)?;
        self.reader.read(&step.chosen, bytemuck::cast_slice_mut(out)).await
    }

    /// Uploads the ids that penalties see, where there are any.
    fn tell_history<'i>(&self, ids: impl Fn(usize) -> &'i [u32]) -> Result<()> {
        if !self.options.penalised() {
            return Ok(());
        }
        let width = self.state.history.width();
        let mut history = vec![0; self.state.rows * width];
        let (before, copies) = (self.history.len() / self.batch, self.state.rows / self.batch);
        let mut length = 0;
        for (row, out) in history.chunks_mut(width).enumerate() {
            let generated = ids(row);
            length = before + generated.len();
            out[..before].copy_from_slice(&self.history[row / copies * before..][..before]);
            out[before..length].copy_from_slice(generated);
        }
        self.device.write_all(self.state.history, &history)?;
        self.device.write_all(self.state.lengths, &[length as u32, before as u32])
    }
}

impl State {
    /// Records the choice of the next tokens. Returns what the host reads of it, kept in `pool`.
    fn choose(
        &self,
        r: &mut Recording,
        logits: Tensor,
        options: &GenerateOptions,
        pool: &mut Pool,
    ) -> Result<Vec<Tensor>> {
        let scores = if options.num_beams > 1 { log_softmax(r, logits) } else { logits };
        if options.penalised() {
            let penalties = Penalties {
                repetition_penalty: options.repetition_penalty,
                no_repeat_ngram_size: options.no_repeat_ngram_size,
                min_new_tokens: options.min_new_tokens,
            };
            penalize(r, scores, self.history, self.lengths, self.eos, penalties);
        }
        if options.num_beams > 1 {
            let count = (1 + options.eos_token_ids.len()).max(2) * options.num_beams;
            let (values, ids) = top_k(r, scores, count);
            return Ok(vec![pool.keep(r, values)?, pool.keep(r, ids)?]);
        }
        match &options.sampling {
            Some(sampling) => sample(r, scores, self.past, *sampling, self.tokens),
            None => argmax(r, scores, self.tokens),
        }
        Ok(vec![self.tokens])
    }
}

fn not_finite(step: usize) -> Error {
    Error::NonFinite { what: "logits".into(), index: step as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::config::Config;

    #[test]
    fn beams_need_an_id_that_ends_nothing() {
        let text = include_str!("../../tests/data/fixtures/qllama-base/config.json");
        let mut config = Config::from_bytes("config.json", text.as_bytes()).unwrap().text;
        config.vocab_size = 3;
        let options = |num_beams, ends: u32| GenerateOptions {
            num_beams,
            eos_token_ids: (0..ends).collect(),
            ..Default::default()
        };
        assert_eq!(options(3, 3).check_for(&config, 1).unwrap_err().code(), "E_INPUT");
        options(1, 3).check_for(&config, 1).unwrap();

        // One id that ends nothing is enough, as the check says: the search goes on with it in every beam.
        options(3, 2).check_for(&config, 1).unwrap();
        let mut search = BeamSearch::new(BeamOptions {
            num_beams: 3,
            num_return_sequences: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::False,
            max_new_tokens: 4,
            eos_token_ids: vec![0, 1],
        });
        let candidates = vec![vec![(-0.5, 0), (-1.0, 1), (-2.0, 2)]; 3];
        assert_eq!(search.step(&candidates).tokens, [2, 2, 2]);
    }

    /// Five beams hold the prompt's keys and values once and five times those of what they generate; all else that grows
    /// with the length is a few integers a row.
    #[test]
    fn beams_share_the_cache_of_the_prompt() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fixtures/qllama-base");
        let (device, folder) = (Device::cpu(), Box::new(crate::files::source::Folder::open(folder).unwrap()));
        let model = pollster::block_on(crate::Model::load(folder, &device, &mut |_| {})).unwrap();
        let decoder = model.decoder();
        let (batch, beams) = (2, 5);
        // Bytes that generation holds, and those of its caches.
        let held = |prompt_rows: usize, new: usize, kv_cache: DType| {
            let mut pool = device.pool();
            let rows = batch * prompt_rows;
            let embeddings = pool.alloc(DType::F32, &[rows, decoder.config.hidden_size]).unwrap();
            let (attention_mask, history) = (vec![1; rows], vec![1; batch]);
            let prompt = Prompt {
                embeddings,
                batch,
                rows: prompt_rows,
                attention_mask: &attention_mask,
                zero_queries: 0,
                cross: None,
                history: &history,
            };
            let options = GenerateOptions { num_beams: beams, max_new_tokens: new, kv_cache, ..Default::default() };
            let before = device.memory().0;
            let session = Session::new(decoder, &device, &prompt, &options).unwrap();
            (device.memory().0 - before, session._caches.bytes())
        };
        for kv_cache in [DType::F32, DType::F16] {
            let a_row = (2 * decoder.layers.len() * decoder.heads().kv_width() * kv_cache.bytes()) as u64;
            let expected = |prompt_rows: usize, new: usize| a_row * (batch * (prompt_rows + beams * new)) as u64;
            let (short, long) = (held(7, 10, kv_cache), held(7, 30, kv_cache));
            assert_eq!((short.1, long.1), (expected(7, 10), expected(7, 30)));
            assert_eq!(held(9, 10, kv_cache).1, expected(9, 10));
            let integers = (4 * size_of::<u32>() * batch * beams * 20) as u64;
            let grown = long.0 - short.0;
            assert!(grown <= expected(7, 30) - expected(7, 10) + integers, "{grown} bytes more for 20 steps more");
        }
    }
}
