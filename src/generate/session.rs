//! Generation: the prompt once, then a token a step, chosen on the device. The step's recording, bind groups and
//! buffers are made once; greedy search brings 4 bytes a sequence back, beams a few candidates.

use std::ops::ControlFlow;

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Device, Pool};
use crate::error::{Error, Result};
use crate::generate::ahead::{Ahead, Depth, Step};
use crate::generate::beams::BeamSearch;
use crate::generate::choose::Choice;
use crate::generate::options::Resolved;
use crate::nets::decoder::{CrossStates, Layer, Observed, Pass, Places, Qllama};
use crate::ops::Rows;
use crate::ops::attention::Mask;
use crate::ops::cache::advance::advance;
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::cache::reorder::reorder;
use crate::ops::logits::remember::remember;
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

/// One generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// New ids, the end id included where it was reached.
    pub ids: Vec<u32>,
    /// Beam search's score; 0 for greedy search and sampling.
    pub score: f32,
}

/// What a generation made.
pub struct Generated {
    /// `num_return_sequences` for each row of the prompt, best first.
    pub sequences: Vec<Vec<Sequence>>,
    /// Dispatches of a decode step.
    pub dispatches_per_token: usize,
}

/// What generation tells of itself while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Greedy search or sampling chose a token; sequences drawn for one prompt stand beside each other.
    Token { sequence: usize, id: u32 },
    /// Beam search took a step; what it says is known at the end only.
    BeamStep,
}

/// Hears of each [`Event`], and may stop the generation, which then ends with [`Error::Aborted`].
pub type OnEvent<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// Generates from a prompt.
///
/// # Errors
/// `E_NONFINITE` when logits are not numbers, `E_ABORTED`, and the
/// device's errors.
pub(crate) async fn generate(
    model: &Qllama,
    device: &Device,
    prompt: &Prompt<'_>,
    options: &Resolved,
    on_event: OnEvent<'_>,
) -> Result<Generated> {
    let session = Session::new(model, device, prompt, options)?;
    let sequences = match options.num_beams {
        1 => session.single(on_event).await?,
        _ => session.beams(on_event).await?,
    };
    Ok(Generated { sequences, dispatches_per_token: session.decode.plan.dispatches })
}

/// The buffers and plans of one generation.
struct Session<'a> {
    options: &'a Resolved,
    device: Device,
    _pool: Pool,
    /// The keys and values.
    _caches: Pool,
    batch: usize,
    state: State,
    prefill: Step,
    decode: Step,
    depth: Depth,
    history: Vec<u32>,
}

/// What a step reads and writes; a row is a sequence, or a beam of one.
pub(crate) struct State {
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
    /// U32 [rows, history capacity] and U32 [2]: ids that penalties see, how many they are, and how many of the prompt.
    history: Tensor,
    lengths: Tensor,
    eos: Tensor,
}

impl<'a> Session<'a> {
    fn new(model: &'a Qllama, device: &Device, prompt: &Prompt, options: &'a Resolved) -> Result<Session<'a>> {
        let (cache_pool, caches) = caches_for(model, device, prompt, options)?;
        let mut pool = device.pool();
        let state = State::new(&mut pool, prompt, options)?;
        let prefill = state.prefill(model, device, &mut pool, prompt, &caches, options)?;
        let (recording, chosen) = state.decode(model, device, &mut pool, prompt, &caches, options)?;
        let decode = Step { plan: device.prepare(&recording)?, chosen };
        Ok(Session {
            options,
            device: device.clone(),
            _pool: pool,
            _caches: cache_pool,
            batch: prompt.batch,
            state,
            prefill,
            decode,
            depth: Depth::of(device),
            history: prompt.history.to_vec(),
        })
    }

    /// Greedy search and sampling.
    async fn single(&self, on_event: OnEvent<'_>) -> Result<Vec<Vec<Sequence>>> {
        let rows = self.state.rows;
        let mut ids: Vec<Vec<u32>> = vec![Vec::new(); rows];
        let mut open = vec![true; rows];
        let mut chosen = vec![0u32; rows];
        let mut ahead =
            Ahead::new(&self.device, [&self.prefill, &self.decode], self.options.max_new_tokens, self.depth)?;
        for step in 0..self.options.max_new_tokens {
            ahead.next(&mut chosen).await?;
            for (row, &id) in chosen.iter().enumerate().filter(|(row, _)| open[*row]) {
                if id == u32::MAX {
                    return Err(not_finite(step));
                }
                ids[row].push(id);
                if on_event(Event::Token { sequence: row, id }).is_break() {
                    return Err(Error::Aborted);
                }
            }
            // A finished row goes on, and nobody is told.
            open.iter_mut().zip(&chosen).for_each(|(open, &id)| *open &= !self.options.ends(id));
            if !open.contains(&true) {
                break;
            }
        }
        // Steps that were started in vain end before whoever called ends the program, and the device with it.
        self.device.finish().await?;
        let all: Vec<Sequence> = ids.into_iter().map(|ids| Sequence { ids, score: 0.0 }).collect();
        Ok(all.chunks(rows / self.batch).map(<[_]>::to_vec).collect())
    }

    async fn beams(&self, on_event: OnEvent<'_>) -> Result<Vec<Vec<Sequence>>> {
        let beams = self.options.num_beams;
        let options = self.options.beams();
        let mut searches: Vec<BeamSearch> = (0..self.batch).map(|_| BeamSearch::new(options.clone())).collect();
        let count = self.prefill.chosen[0].width();
        let mut words = vec![0u32; 2 * self.state.rows * count];
        let reader = self.decode.reader(&self.device)?;
        for step in 0..self.options.max_new_tokens {
            self.tell_history(|row| searches[row / beams].ids(row % beams))?;
            let step_now = if step == 0 { &self.prefill } else { &self.decode };
            step_now.start(&self.device, &reader)?.finish(bytemuck::cast_slice_mut(&mut words)).await?;
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
            if on_event(Event::BeamStep).is_break() {
                return Err(Error::Aborted);
            }
            if done {
                break;
            }
            self.device.write_all(self.state.parents, &parents)?;
            self.device.write_all(self.state.tokens, &tokens)?;
        }
        let sequences =
            |search: BeamSearch| search.finish().into_iter().map(|h| Sequence { ids: h.ids, score: h.score }).collect();
        Ok(searches.into_iter().map(sequences).collect())
    }

    /// Uploads the ids that penalties see, where there are any: beams change theirs at every step.
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

/// Keys and values of a generation, one pair a layer, in a pool of their own.
pub(crate) fn caches_for(
    model: &Qllama,
    device: &Device,
    prompt: &Prompt,
    options: &Resolved,
) -> Result<(Pool, Vec<KvCache>)> {
    // The prompt's keys stand once a picture; behind them each beam has rows of its own for what it generates.
    let cache_rows = prompt.batch * (prompt.rows + options.copies() * options.max_new_tokens);
    let mut pool = device.pool();
    let cache = |_: &Layer| KvCache::alloc(&mut pool, options.kv_cache.dtype(), cache_rows, model.heads());
    let caches = model.layers.iter().map(cache).collect::<Result<Vec<_>>>()?;
    Ok((pool, caches))
}

impl Prompt<'_> {
    /// Rows of each sequence that may be seen.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.attention_mask.chunks(self.rows).map(|mask| mask.iter().sum::<u32>() as usize)
    }

    /// `cumsum(mask) - 1`; masked rows get 1.
    fn positions(&self) -> Vec<u32> {
        let of_sequence = |mask: &[u32]| {
            let mut ones = 0;
            let position = |&m: &u32| {
                ones += m;
                if m == 0 { 1 } else { ones - 1 }
            };
            mask.iter().map(position).collect::<Vec<_>>()
        };
        self.attention_mask.chunks(self.rows).flat_map(of_sequence).collect()
    }

    fn is_padded(&self) -> bool {
        self.attention_mask.contains(&0)
    }
}

impl State {
    pub(crate) fn new(pool: &mut Pool, prompt: &Prompt, options: &Resolved) -> Result<State> {
        let (beams, new) = (options.copies(), options.max_new_tokens);
        let rows = prompt.batch * beams;
        let capacity = prompt.rows + new;
        let lengths: Vec<usize> = prompt.lengths().collect();
        let own = |row: usize, t: usize| (prompt.batch * prompt.rows + row * new + t - prompt.rows) as u32;
        let key = |row: usize, t: usize| {
            if t < prompt.rows { (row / beams * prompt.rows + t) as u32 } else { own(row, t) }
        };
        let table: Vec<u32> = (0..rows).flat_map(|row| (0..capacity).map(move |t| key(row, t))).collect();
        let slots: Vec<u32> = (0..rows).map(|row| own(row, prompt.rows)).collect();
        let positions: Vec<u32> = (0..rows).map(|row| lengths[row / beams] as u32).collect();
        let before = prompt.history.len() / prompt.batch;
        let of_row = |row: usize| {
            prompt.history[row / beams * before..][..before].iter().copied().chain(std::iter::repeat_n(0, new))
        };
        let history: Vec<u32> = (0..rows).flat_map(of_row).collect();
        // No id is that large: it stands for none.
        let eos = if options.eos_token_ids.is_empty() { &[u32::MAX][..] } else { &options.eos_token_ids };
        Ok(State {
            rows,
            tokens: pool.alloc(DType::U32, &[rows])?,
            positions: pool.u32(&[rows], &positions)?,
            slots: pool.u32(&[rows], &slots)?,
            past: pool.u32(&[1], &[prompt.rows as u32])?,
            table: pool.u32(&[rows, capacity], &table)?,
            parents: pool.u32(&[rows], &(0..rows as u32).collect::<Vec<_>>())?,
            history: pool.u32(&[rows, before + new], &history)?,
            lengths: pool.u32(&[2], &[before as u32; 2])?,
            eos: pool.u32(&[eos.len()], eos)?,
        })
    }

    /// The pass over the prompt.
    fn prefill(
        &self,
        model: &Qllama,
        device: &Device,
        pool: &mut Pool,
        prompt: &Prompt,
        caches: &[KvCache],
        options: &Resolved,
    ) -> Result<Step> {
        let Prompt { batch, rows: prompt_rows, .. } = *prompt;
        let all = batch * prompt_rows;
        let mask = match prompt.is_padded() {
            true => Some(pool.u32(&[batch, prompt_rows], prompt.attention_mask)?),
            false => None,
        };
        let mut r = device.recording();
        let places = Places {
            positions: pool.u32(&[all], &prompt.positions())?,
            slots: pool.u32(&[all], &(0..all as u32).collect::<Vec<_>>())?,
            caches,
        };
        let mask = Mask::Causal { attention_mask: mask, zero_queries: prompt.zero_queries };
        let pass = Pass::prefill(prompt.embeddings, batch, places, mask, prompt.cross);
        let passed = model.record(&mut r, &pass, &Observed::default());
        let last: Vec<u32> = (0..batch).map(|b| ((b + 1) * prompt_rows - 1) as u32).collect();
        let last = pool.u32(&[batch], &last)?;
        let hidden = gather_rows(&mut r, passed.last_hidden_state, last);
        let mut logits = model.logits(&mut r, hidden);
        let beams = self.rows / batch;
        if beams > 1 {
            let each: Vec<u32> = (0..self.rows).map(|row| (row / beams) as u32).collect();
            let each = pool.u32(&[self.rows], &each)?;
            logits = gather_rows(&mut r, logits, each);
        }
        let chosen = self.choose(&mut r, logits, options, pool)?;
        Ok(Step { plan: device.prepare(&r)?, chosen })
    }

    /// The pass over one token a row, to be played again and again, and what it leaves for the host.
    pub(crate) fn decode(
        &self,
        model: &Qllama,
        device: &Device,
        pool: &mut Pool,
        prompt: &Prompt,
        caches: &[KvCache],
        options: &Resolved,
    ) -> Result<(Recording, Vec<Tensor>)> {
        let beams = self.rows / prompt.batch;
        let of_row = |row: usize| {
            let of_prompt = &prompt.attention_mask[row / beams * prompt.rows..][..prompt.rows];
            of_prompt.iter().copied().chain(std::iter::repeat_n(1, options.max_new_tokens))
        };
        let mask = match prompt.is_padded() {
            true => Some(pool.u32(self.table.shape(), &(0..self.rows).flat_map(of_row).collect::<Vec<_>>())?),
            false => None,
        };
        let mut r = device.recording();
        if options.num_beams > 1 {
            reorder(&mut r, self.table, self.parents, self.past, prompt.rows, beams);
        }
        let x = r.scratch_f32(&[self.rows, model.config.hidden_size]);
        embed(&mut r, &model.embed_tokens, self.tokens, x, Rows::all(x));
        let places = Places { positions: self.positions, slots: self.slots, caches };
        let mask = Mask::Causal { attention_mask: mask, zero_queries: 0 };
        let pass = Pass::step(x, places, self.table, self.past, mask);
        let passed = model.record(&mut r, &pass, &Observed::default());
        let logits = model.logits(&mut r, passed.last_hidden_state);
        advance(&mut r, self.table, self.past, self.positions, self.slots);
        let chosen = self.choose(&mut r, logits, options, pool)?;
        Ok((r, chosen))
    }

    /// Records the choice of the next tokens. Returns what the host reads of it, kept in `pool`.
    fn choose(&self, r: &mut Recording, logits: Tensor, options: &Resolved, pool: &mut Pool) -> Result<Vec<Tensor>> {
        let State { tokens, history, lengths, eos, past, .. } = *self;
        let chosen = Choice { tokens, history, lengths, eos, draw: past }.record(r, logits, options, pool)?;
        if options.num_beams == 1 && options.penalised() {
            remember(r, tokens, history, lengths);
        }
        Ok(chosen)
    }
}

pub(crate) fn not_finite(step: usize) -> Error {
    Error::NonFinite { what: "logits".into(), index: step as u64 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::files::checkpoint::Checkpoint;
    use crate::generate::options::{GenerateOptions, KvCacheType};
    use crate::ops::logits::sampling::Sampling;
    use crate::ops::testing::{Random, gpu_device};
    use crate::weights::loader::{Loader, OnBytes};

    fn load(device: &Device) -> (Pool, Qllama) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fixtures/qllama-base");
        let source = Box::new(crate::files::source::Folder::open(folder).unwrap());
        let checkpoint = pollster::block_on(Checkpoint::open(source)).unwrap();
        let config = checkpoint.config.text.clone();
        let mut weights = device.pool();
        let on_bytes: OnBytes = &mut |_| {};
        let mut loader = Loader::load(&checkpoint, None, &mut weights, on_bytes);
        let decoder = pollster::block_on(Qllama::load(&mut loader, "", &config)).unwrap();
        (weights, decoder)
    }

    /// However many steps are on their way, the ids are the same, and so is what is told of them.
    #[test]
    fn steps_ahead_choose_the_same() {
        let device = gpu_device();
        let (_weights, decoder) = &load(device);
        let (batch, rows, new) = (2, 5, 12);
        let mut pool = device.pool();
        let width = decoder.config.hidden_size;
        let embeddings = pool.f32(&[batch * rows, width], &Random::new(3).f32s(batch * rows * width)).unwrap();
        let run = |options: &GenerateOptions, depth: usize| {
            let prompt = Prompt {
                embeddings,
                batch,
                rows,
                attention_mask: &vec![1; batch * rows],
                zero_queries: 0,
                cross: None,
                history: &[7, 8, 9, 8, 7, 6],
            };
            let options = options.resolve(&decoder.config, KvCacheType::F32).unwrap();
            let mut session = Session::new(decoder, device, &prompt, &options).unwrap();
            session.depth = Depth { most: depth, waste: Duration::MAX };
            let mut told = Vec::new();
            let mut on_event = |event| {
                told.push(event);
                ControlFlow::Continue(())
            };
            let made = pollster::block_on(session.single(&mut on_event)).unwrap();
            (made, told)
        };
        let plain = GenerateOptions { max_new_tokens: new, eos_token_ids: Some(Vec::new()), ..Default::default() };
        let ids = run(&plain, 1).0[0][0].ids.clone();
        assert_eq!(ids.len(), new);
        let penalised =
            GenerateOptions { repetition_penalty: 1.5, no_repeat_ngram_size: 2, min_new_tokens: 3, ..plain.clone() };
        let sampling = Sampling { temperature: 1.5, ..Default::default() };
        let sampled = GenerateOptions { sampling: Some(sampling), num_return_sequences: 3, ..penalised.clone() };
        // Ends in the middle, for one sequence before the other.
        let ending = GenerateOptions { eos_token_ids: Some(vec![ids[5]]), ..plain.clone() };
        for options in [plain.clone(), penalised, sampled, ending] {
            let expected = run(&options, 1);
            for depth in [2, 3] {
                assert_eq!(run(&options, depth), expected, "{options:?}, {depth} steps");
            }
        }
        assert_ne!(run(&plain, 1).0, run(&GenerateOptions { repetition_penalty: 1.5, ..plain.clone() }, 1).0);
    }

    /// Five beams hold the prompt's keys and values once and five times those of what they generate; all else that grows
    /// with the length is a few integers a row.
    #[test]
    fn beams_share_the_cache_of_the_prompt() {
        let device = Device::cpu();
        let (_weights, decoder) = &load(&device);
        let (batch, beams) = (2, 5);
        // Bytes that generation holds, and those of its caches.
        let held = |prompt_rows: usize, new: usize, kv_cache: KvCacheType| {
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
            let options = GenerateOptions { num_beams: beams, max_new_tokens: new, ..Default::default() };
            let options = options.resolve(&decoder.config, kv_cache).unwrap();
            let before = device.memory().0;
            let session = Session::new(decoder, &device, &prompt, &options).unwrap();
            (device.memory().0 - before, session._caches.bytes())
        };
        for kv_cache in [KvCacheType::F32, KvCacheType::F16] {
            let per_row = (2 * decoder.layers.len() * decoder.heads().kv_width() * kv_cache.dtype().bytes()) as u64;
            let expected = |prompt_rows: usize, new: usize| per_row * (batch * (prompt_rows + beams * new)) as u64;
            let (short, long) = (held(7, 10, kv_cache), held(7, 30, kv_cache));
            assert_eq!((short.1, long.1), (expected(7, 10), expected(7, 30)));
            assert_eq!(held(9, 10, kv_cache).1, expected(9, 10));
            let integers = (4 * size_of::<u32>() * batch * beams * 20) as u64;
            let grown = long.0 - short.0;
            assert!(grown <= expected(7, 30) - expected(7, 10) + integers, "{grown} bytes more for 20 steps more");
        }
    }
}
