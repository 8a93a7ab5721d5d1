//! The model between the readers and the output: captions of as many pictures at once as there is room for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qllama::{GenerateInputs, GenerateOptions, Generation, Opened, Prompt, Result};

use crate::common::prompt_ids;
use crate::many::list::Listed;
use crate::many::read::{Next, Pictures, Ready};

/// New pictures are taken when a part of all places, one in so many, is free.
const ROOM: usize = 4;
/// How long the model waits for a picture before it looks at the clock again.
const WAIT: Duration = Duration::from_millis(200);

/// How captions are written.
pub struct Texts {
    pub prompt: String,
    pub options: GenerateOptions,
    /// Captions at once; what suits model and adapter unless it is given.
    pub batch_size: Option<usize>,
}

/// What takes captions and failures.
pub trait Output {
    /// The model is loaded.
    fn begin(&mut self) {}

    /// A moment to show how far the run is.
    fn show(&mut self) {}

    /// What became of a picture, by its number in the list.
    ///
    /// # Errors
    /// Those that end the run.
    fn take(&mut self, number: usize, listed: Listed, result: Result<Generation>) -> Result<()>;
}

/// The model between the readers and the output.
pub struct Engine<O> {
    pub pictures: Pictures,
    pub output: O,
    pub stop: Arc<AtomicBool>,
}

impl<O: Output> Engine<O> {
    /// Captions all pictures, or those that are at work when the user wants an end.
    ///
    /// # Errors
    /// The model's, and the output's.
    pub fn run(&mut self, opened: Opened<'_>, job: Texts) -> Result<()> {
        // The weights are not read before there is a picture to caption.
        let Some(first) = self.next(true)? else { return Ok(()) };
        let pixel_values = first.pixels.as_ref().ok().cloned();
        let input_ids = Some(prompt_ids(&opened, &job.prompt)?);
        let inputs = GenerateInputs { input_ids, pixel_values, ..Default::default() };
        opened.check_generate(&inputs, &job.options)?;
        let model = opened.load()?;
        let prompt = Prompt::from(&*job.prompt);
        let size = job.batch_size.map_or_else(|| model.batch_size(&prompt, &job.options), Ok)?;
        let mut batch = model.batch(prompt, &job.options, size)?;
        self.output.begin();
        let mut open = BTreeMap::new();
        let mut first = Some(first);
        loop {
            let mut new = Vec::new();
            // InternViT takes several pictures at once: it waits until there is room for some.
            if batch.open() == 0 || batch.room() * ROOM >= size {
                while new.len() < batch.room() {
                    let idle = batch.open() == 0 && new.is_empty();
                    let next = first.take().map_or_else(|| self.next(idle), |first| Ok(Some(first)))?;
                    let Some(Ready { number, listed, pixels }) = next else { break };
                    new.push((number, pixels?));
                    open.insert(number, listed);
                }
            }
            if new.is_empty() && batch.open() == 0 {
                return Ok(());
            }
            let mut ended = if new.is_empty() { Vec::new() } else { batch.add(new)? };
            ended.extend(batch.step()?);
            for (number, caption) in ended {
                let listed = open.remove(&number).expect("each picture ends once");
                self.output.take(number, listed, caption)?;
            }
        }
    }

    /// The next picture that could be read; what became of others goes to the output. `None` at the end, where the user
    /// wants one, and, unless the caller is `idle`, where none is ready.
    fn next(&mut self, idle: bool) -> Result<Option<Ready>> {
        while !self.stop.load(Ordering::Relaxed) {
            self.output.show();
            match self.pictures.next(if idle { WAIT } else { Duration::ZERO }) {
                Next::Ready(ready) if ready.pixels.is_ok() => return Ok(Some(*ready)),
                Next::Ready(ready) => {
                    let Ready { number, listed, pixels } = *ready;
                    self.output.take(number, listed, pixels.map(|_| unreachable!("it failed")))?;
                }
                Next::NotYet if idle => {}
                Next::NotYet | Next::End => break,
            }
        }
        Ok(None)
    }
}
