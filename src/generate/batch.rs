//! Texts about many pictures at once: each step makes a token of all that are open, so that weights are read once for
//! all; a text that ends makes room for the next (continuous batching; Orca, Yu et al., 2022).
//!
//! All have the same prompt, a picture's query tokens first. Each text has a place of its own in the caches: the prompt's
//! rows, then `max_new_tokens` rows for each beam. A step's rows are those of the open texts, whatever their ages: the
//! host tells each row its token, position, keys and history.

use std::collections::BTreeMap;

use crate::device::tensor::{DType, Tensor};
use crate::device::{Device, Plan, Pool, Reader};
use crate::error::{Error, Result};
use crate::generate::beams::BeamSearch;
use crate::generate::choose::Choice;
use crate::generate::options::Resolved;
use crate::generate::session::{Sequence, not_finite};
use crate::nets::decoder::{CrossStates, Observed, Pass, Places, Qllama};
use crate::ops::Rows;
use crate::ops::attention::{Keys, Mask};
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::rows::embed::embed;
use crate::ops::rows::gather_rows::gather_rows;

/// The prompt that all texts of a batch continue.
pub(crate) struct Shared {
    /// Rows of the prompt.
    pub rows: usize,
    /// The first rows that see each other both ways.
    pub zero_queries: usize,
    /// What penalties see before the generated ids.
    pub history: Vec<u32>,
}

/// A text that ended: the caller's number of it, and what it says; `E_NONFINITE` where its logits were not numbers.
pub(crate) type Ended = (usize, Result<Sequence>);

/// Texts that are being generated.
pub(crate) struct Batch {
    device: Device,
    options: Resolved,
    prompt: Shared,
    places: usize,
    caches: Vec<KvCache>,
    _caches: Pool,
    free: Vec<usize>,
    open: Vec<Open>,
    /// By the number of texts that they have rows for.
    steps: BTreeMap<usize, Step>,
}

/// A text that is not at its end.
struct Open {
    key: usize,
    place: usize,
    text: Text,
    /// For each beam the cache rows of what it generated, oldest first.
    own: Vec<Vec<u32>>,
}

enum Text {
    /// Greedy search, or a draw.
    Single(Vec<u32>),
    Beams(BeamSearch),
}

/// A pass over one row of each beam of some texts, made once.
struct Step {
    plan: Plan,
    inputs: Inputs,
    chosen: Vec<Tensor>,
    reader: Reader,
    _pool: Pool,
}

/// What the host tells a pass.
struct Inputs {
    /// U32 [rows]
    tokens: Tensor,
    positions: Tensor,
    /// The cache rows that keys and values go to.
    slots: Tensor,
    /// Keys before this pass.
    past: Tensor,
    /// U32 [rows, capacity]: the cache row of each key.
    table: Tensor,
    /// U32 [rows, history capacity] and [rows, 2]
    history: Tensor,
    lengths: Tensor,
    /// U32 [1]
    draw: Tensor,
    eos: Tensor,
}

/// The same on the host, row by row.
#[derive(Default)]
struct Values {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    past: Vec<u32>,
    table: Vec<u32>,
    history: Vec<u32>,
    lengths: Vec<u32>,
    draw: u32,
}

impl Batch {
    /// Makes room for `places` texts at once.
    ///
    /// # Errors
    /// `E_CONTEXT` when positions would go beyond the model's; the device's.
    ///
    /// # Panics
    /// When texts are drawn, several at once: draws are a row's.
    pub fn new(model: &Qllama, device: &Device, prompt: Shared, options: Resolved, places: usize) -> Result<Batch> {
        assert!(places > 0 && (places == 1 || options.sampling.is_none()), "{places} places");
        options.check_rows(&model.config, prompt.rows)?;
        let mut pool = device.pool();
        // One more row for what nobody asks for.
        let rows = places * rows_of_place(prompt.rows, &options) + 1;
        let cache = |_: &_| KvCache::alloc(&mut pool, options.kv_cache.dtype(), rows, model.heads());
        let caches = model.layers.iter().map(cache).collect::<Result<Vec<_>>>()?;
        Ok(Batch {
            device: device.clone(),
            options,
            prompt,
            places,
            caches,
            _caches: pool,
            free: (0..places).rev().collect(),
            open: Vec::new(),
            steps: BTreeMap::new(),
        })
    }

    /// Texts that can be added now.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Texts that are not at their end.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The pass over the prompts of new texts, at most [`Batch::room`] of them. `embeddings` is [texts * rows,
    /// hidden_size]. Returns those that ended at once.
    ///
    /// # Errors
    /// The device's.
    pub async fn add(
        &mut self,
        model: &Qllama,
        keys: &[usize],
        embeddings: Tensor,
        cross: Option<&CrossStates>,
    ) -> Result<Vec<Ended>> {
        let (count, rows) = (keys.len(), self.prompt.rows);
        assert!(count <= self.room(), "{count} texts for {} places", self.room());
        let new: Vec<Open> = keys.iter().map(|&key| self.begin(key)).collect();
        let mut pool = self.device.pool();
        let slots: Vec<u32> = new.iter().flat_map(|open| self.prompt_rows(open.place)).collect();
        let positions: Vec<u32> = (0..count).flat_map(|_| 0..rows as u32).collect();
        let last: Vec<u32> = (1..=count).map(|text| (text * rows - 1) as u32).collect();
        let inputs = Inputs::new(&mut pool, count, rows, self.history_capacity(), &self.options)?;
        let places = Places {
            positions: pool.u32(&[count * rows], &positions)?,
            slots: pool.u32(&[count * rows], &slots)?,
            caches: &self.caches,
        };
        let mut r = self.device.recording();
        self.device.write_all(inputs.table, &slots)?;
        let pass = Pass {
            keys: Keys::Cached { table: inputs.table, past: inputs.past },
            ..Pass::prefill(
                embeddings,
                count,
                places,
                Mask::Causal { attention_mask: None, zero_queries: self.prompt.zero_queries },
                cross,
            )
        };
        let passed = model.record(&mut r, &pass, &Observed::default());
        let last = pool.u32(&[count], &last)?;
        let hidden = gather_rows(&mut r, passed.last_hidden_state, last);
        let logits = model.logits(&mut r, hidden);
        let chosen = inputs.choice().record(&mut r, logits, &self.options, &mut pool)?;
        let mut values = Values { draw: rows as u32, ..Default::default() };
        new.iter().for_each(|_| self.tell_history(&mut values, &[]));
        inputs.tell_choice(&self.device, &values, &self.options)?;
        self.device.play(&r)?;
        let mut words = vec![0u32; chosen.iter().map(|t| t.len()).sum()];
        let reader = self.device.reader(4 * words.len())?;
        reader.read(&chosen, bytemuck::cast_slice_mut(&mut words)).await?;
        // All beams stand at the prompt, and only the first can win.
        let picks = Picks::new(&words, count, self.options.num_beams);
        let mut ended = Vec::new();
        for (text, open) in new.into_iter().enumerate() {
            let rows = vec![text; self.options.copies()];
            self.take(open, &picks, &rows, &mut ended);
        }
        Ok(ended)
    }

    /// One more token of all open texts. Returns those that ended.
    ///
    /// # Errors
    /// The device's.
    pub async fn step(&mut self, model: &Qllama) -> Result<Vec<Ended>> {
        if self.open.is_empty() {
            return Ok(Vec::new());
        }
        let texts = self.open.len().next_power_of_two().min(self.places);
        if !self.steps.contains_key(&texts) {
            let step = self.prepare(model, texts)?;
            self.steps.insert(texts, step);
        }
        let values = self.values(texts);
        let step = &self.steps[&texts];
        step.inputs.tell(&self.device, &values, &self.options)?;
        self.device.run(&step.plan)?;
        let mut words = vec![0u32; step.chosen.iter().map(|t| t.len()).sum()];
        step.reader.read(&step.chosen, bytemuck::cast_slice_mut(&mut words)).await?;
        let copies = self.options.copies();
        let picks = Picks::new(&words, texts * copies, self.options.num_beams);
        let mut ended = Vec::new();
        for (text, mut open) in std::mem::take(&mut self.open).into_iter().enumerate() {
            let rows: Vec<usize> = (text * copies..(text + 1) * copies).collect();
            open.own.iter_mut().zip(&rows).for_each(|(own, &row)| own.push(values.slots[row]));
            self.take(open, &picks, &rows, &mut ended);
        }
        Ok(ended)
    }

    fn begin(&mut self, key: usize) -> Open {
        let place = self.free.pop().expect("the caller looked for room");
        let text = match self.options.num_beams {
            1 => Text::Single(Vec::new()),
            _ => Text::Beams(BeamSearch::new(self.options.beams())),
        };
        Open { key, place, text, own: vec![Vec::new(); self.options.copies()] }
    }

    /// Adds what was chosen for a text, by the rows of its beams, and keeps it where it is not at its end.
    fn take(&mut self, mut open: Open, picks: &Picks, rows: &[usize], ended: &mut Vec<Ended>) {
        let made = open.own[0].len();
        let done = if rows.iter().any(|&row| !picks.is_finite(row)) {
            Some(Err(not_finite(made)))
        } else {
            match &mut open.text {
                Text::Single(ids) => {
                    let id = picks.id(rows[0]);
                    ids.push(id);
                    let done = self.options.ends(id) || ids.len() == self.options.max_new_tokens;
                    done.then(|| Ok(Sequence { ids: std::mem::take(ids), score: 0.0 }))
                }
                Text::Beams(search) => {
                    let candidates: Vec<_> = rows.iter().map(|&row| picks.candidates(row)).collect();
                    let chosen = search.step(&candidates);
                    open.own = chosen.parents.iter().map(|&parent| open.own[parent].clone()).collect();
                    chosen.done.then(|| {
                        let best = search.clone().finish().swap_remove(0);
                        Ok(Sequence { ids: best.ids, score: best.score })
                    })
                }
            }
        };
        match done {
            Some(result) => {
                self.free.push(open.place);
                ended.push((open.key, result));
            }
            None => self.open.push(open),
        }
    }

    /// What the host tells a step for so many texts.
    fn values(&self, texts: usize) -> Values {
        let (prompt_rows, new, copies) = (self.prompt.rows, self.options.max_new_tokens, self.options.copies());
        let capacity = prompt_rows + new;
        let mut values = Values::default();
        for open in &self.open {
            for (beam, own) in open.own.iter().enumerate() {
                let (made, ids) = (own.len(), open.text.ids(beam));
                let slot = self.prompt_rows(open.place).end + (beam * new + made) as u32;
                values.tokens.push(*ids.last().expect("the prompt chose one"));
                values.positions.push((prompt_rows + made) as u32);
                values.slots.push(slot);
                values.past.push((prompt_rows + made) as u32);
                values.table.extend(self.prompt_rows(open.place).chain(own.iter().copied()).chain([slot]));
                values.table.resize(values.slots.len() * capacity, slot);
                self.tell_history(&mut values, ids);
                values.draw = (prompt_rows + made + 1) as u32;
            }
        }
        // Rows of no text: one key, in the row that nobody reads.
        let nobody = (self.places * rows_of_place(prompt_rows, &self.options)) as u32;
        for _ in self.open.len() * copies..texts * copies {
            for list in [&mut values.tokens, &mut values.positions, &mut values.past] {
                list.push(0);
            }
            values.slots.push(nobody);
            values.table.resize(values.slots.len() * capacity, nobody);
            self.tell_history(&mut values, &[]);
        }
        values
    }

    fn tell_history(&self, values: &mut Values, ids: &[u32]) {
        if self.options.penalised() {
            let end = values.history.len() + self.history_capacity();
            let before = self.prompt.history.len();
            values.history.extend(self.prompt.history.iter().chain(ids));
            values.history.resize(end, 0);
            values.lengths.extend([(before + ids.len()) as u32, before as u32]);
        }
    }

    fn history_capacity(&self) -> usize {
        self.prompt.history.len() + self.options.max_new_tokens
    }

    /// The cache rows of a place's prompt.
    fn prompt_rows(&self, place: usize) -> std::ops::Range<u32> {
        let first = (place * rows_of_place(self.prompt.rows, &self.options)) as u32;
        first..first + self.prompt.rows as u32
    }

    /// The pass over one row of each beam of so many texts.
    fn prepare(&self, model: &Qllama, texts: usize) -> Result<Step> {
        let rows = texts * self.options.copies();
        let mut pool = self.device.pool();
        let capacity = self.prompt.rows + self.options.max_new_tokens;
        let inputs = Inputs::new(&mut pool, rows, capacity, self.history_capacity(), &self.options)?;
        let mut r = self.device.recording();
        let x = r.scratch_f32(&[rows, model.config.hidden_size]);
        embed(&mut r, &model.embed_tokens, inputs.tokens, x, Rows::all(x));
        let places = Places { positions: inputs.positions, slots: inputs.slots, caches: &self.caches };
        let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
        let passed =
            model.record(&mut r, &Pass::step(x, places, inputs.table, inputs.past, mask), &Observed::default());
        let logits = model.logits(&mut r, passed.last_hidden_state);
        let chosen = inputs.choice().record(&mut r, logits, &self.options, &mut pool)?;
        let reader = self.device.reader(chosen.iter().map(|t| t.size_bytes()).sum())?;
        Ok(Step { plan: self.device.prepare(&r)?, inputs, chosen, reader, _pool: pool })
    }
}

/// Cache rows of a place: the prompt's, and those of each beam's new tokens.
fn rows_of_place(prompt_rows: usize, options: &Resolved) -> usize {
    prompt_rows + options.copies() * options.max_new_tokens
}

impl Text {
    fn ids(&self, beam: usize) -> &[u32] {
        match self {
            Text::Single(ids) => ids,
            Text::Beams(search) => search.ids(beam),
        }
    }
}

impl Inputs {
    fn new(pool: &mut Pool, rows: usize, capacity: usize, history: usize, options: &Resolved) -> Result<Inputs> {
        // No id is that large: it stands for none.
        let eos = if options.eos_token_ids.is_empty() { &[u32::MAX][..] } else { &options.eos_token_ids };
        let mut words = |shape: &[usize]| pool.alloc(DType::U32, shape);
        Ok(Inputs {
            tokens: words(&[rows])?,
            positions: words(&[rows])?,
            slots: words(&[rows])?,
            past: words(&[rows])?,
            table: words(&[rows, capacity])?,
            history: words(&[rows, history])?,
            lengths: words(&[rows, 2])?,
            draw: words(&[1])?,
            eos: pool.u32(&[eos.len()], eos)?,
        })
    }

    fn choice(&self) -> Choice {
        let Inputs { tokens, history, lengths, eos, draw, .. } = *self;
        Choice { tokens, history, lengths, eos, draw }
    }

    fn tell(&self, device: &Device, values: &Values, options: &Resolved) -> Result<()> {
        device.write_all(self.tokens, &values.tokens)?;
        device.write_all(self.positions, &values.positions)?;
        device.write_all(self.slots, &values.slots)?;
        device.write_all(self.past, &values.past)?;
        device.write_all(self.table, &values.table)?;
        self.tell_choice(device, values, options)
    }

    fn tell_choice(&self, device: &Device, values: &Values, options: &Resolved) -> Result<()> {
        if options.penalised() {
            device.write_all(self.history, &values.history)?;
            device.write_all(self.lengths, &values.lengths)?;
        }
        match options.sampling {
            Some(_) => device.write_all(self.draw, &[values.draw]),
            None => Ok(()),
        }
    }
}

/// What a pass chose, row by row.
struct Picks<'a> {
    /// Candidates a row; of greedy search none, but for the id.
    count: usize,
    values: &'a [u32],
    ids: &'a [u32],
}

impl Picks<'_> {
    fn new(words: &[u32], rows: usize, beams: usize) -> Picks<'_> {
        let (values, ids) = if beams > 1 { words.split_at(words.len() / 2) } else { (&[][..], words) };
        Picks { count: ids.len() / rows, values, ids }
    }

    fn id(&self, row: usize) -> u32 {
        self.ids[row * self.count]
    }

    fn is_finite(&self, row: usize) -> bool {
        self.id(row) != u32::MAX
    }

    fn candidates(&self, row: usize) -> Vec<(f32, u32)> {
        let all = (row * self.count..(row + 1) * self.count).map(|i| (f32::from_bits(self.values[i]), self.ids[i]));
        all.filter(|candidate| candidate.1 != u32::MAX).collect()
    }
}

/// Bytes of the caches for a text.
pub(crate) fn bytes_of_place(model: &Qllama, prompt_rows: usize, options: &Resolved) -> u64 {
    let row = 2 * model.layers.len() * model.heads().kv_width() * options.kv_cache.dtype().bytes();
    (row * rows_of_place(prompt_rows, options)) as u64
}

/// Why texts that are drawn are made one at a time.
pub(crate) fn check_places(options: &Resolved, places: usize) -> Result<()> {
    if places == 0 {
        return Err(Error::Input { reason: "a batch needs room for at least one picture".into() });
    }
    if places > 1 && options.sampling.is_some() {
        let reason =
            "do_sample draws for one picture at a time, so that draws are the same in any company: a batch of 1";
        return Err(Error::Input { reason: reason.into() });
    }
    Ok(())
}
