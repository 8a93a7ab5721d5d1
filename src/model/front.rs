//! A loaded model and its tasks: captions, match tables, embeddings, text.
//!
//! Here are the forms that are awaited; [`blocking`](super::blocking) has those that wait, [`builder`](super::builder)
//! what opens a model, [`forward`](super::forward) the published forward pass.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::str::FromStr;

use crate::device::{Array, DeviceInfo};
use crate::error::{Error, Result, printable};
use crate::files::checkpoint::Checkpoint;
use crate::files::config::Config;
use crate::generate::inputs::GenerateInputs;
use crate::generate::options::{GenerateOptions, KvCacheType, Resolved};
use crate::generate::session::{Event, Sequence};
use crate::image::{Picture, PixelValues, Preprocessor};
use crate::model::calls::Task;
use crate::model::check::CheckReport;
use crate::model::network::{Network, Vision};
use crate::model::recovery::Loaded;
use crate::ops::logits::softmax;
use crate::text::{DecodeStream, SUMMARIZE, Tokenizer};

/// The prompt that the published usage gives for captions.
pub const CAPTION_PROMPT: &str = "English caption:";

/// How a picture and a text are compared.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// InternVL-C: by embeddings of the vision encoder alone.
    #[default]
    C,
    /// InternVL-G: by embeddings with QLLaMA's query tokens.
    G,
    /// Image-text matching: QLLaMA sees picture and text together.
    Itm,
}

impl Mode {
    /// All modes as front ends name them, with what they mean.
    pub const NAMED: &'static [(&'static str, Mode, &'static str)] = &[
        ("c", Mode::C, "InternVL-C: by embeddings of the vision encoder alone"),
        ("g", Mode::G, "InternVL-G: by embeddings with QLLaMA's query tokens"),
        ("itm", Mode::Itm, "image-text matching: each pair by itself"),
    ];
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Mode> {
        let named = Mode::NAMED.iter().find(|(known, ..)| *known == name);
        named
            .map(|(_, mode, _)| *mode)
            .ok_or_else(|| Error::Input { reason: format!("mode: expected c, g or itm, found {:?}", printable(name)) })
    }
}

/// How a caption is written; the default is the published prompt and greedy search.
#[derive(Clone, Debug, Default)]
pub struct CaptionOptions {
    /// What the caption continues; `None` is `English caption:`.
    pub prompt: Option<String>,
    /// How its tokens are chosen. The published usage is 5 beams and at least 8 tokens.
    pub generate: GenerateOptions,
}

/// What was written about a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    pub text: String,
    /// Its ids, without the one that ended it.
    pub ids: Vec<u32>,
    /// Beam search's score; 0 otherwise.
    pub score: f32,
    /// The id that ended it, where one did.
    pub end_id: Option<u32>,
}

/// What generation starts from: a text or ids, behind a picture or without one.
#[derive(Clone, Copy, Default)]
pub struct Prompt<'a> {
    /// What the model looks at: its query tokens stand before the text.
    pub picture: Option<&'a Picture>,
    pub text: Option<&'a str>,
    /// In place of `text`: ids as they stand, no BOS added.
    pub ids: Option<&'a [u32]>,
}

impl<'a> From<&'a str> for Prompt<'a> {
    fn from(text: &'a str) -> Prompt<'a> {
        Prompt { text: Some(text), ..Default::default() }
    }
}

/// One generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// `None` where the model has no tokenizer.
    pub text: Option<String>,
    /// New ids, without the one that ended the sequence.
    pub ids: Vec<u32>,
    /// Beam search's score; 0 otherwise.
    pub score: f32,
    /// The id that ended it, where one did.
    pub end_id: Option<u32>,
}

/// A piece of text as it is made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Piece<'a> {
    /// Which of the sequences: those drawn for one prompt stand beside each other.
    pub sequence: usize,
    /// What became final of the text; empty while a character is not whole, and without a tokenizer.
    pub text: &'a str,
    /// The token; `None` for the rest behind the last one, and for a step of beam search, which tells its text at the end.
    pub id: Option<u32>,
}

/// Hears of each piece of text, and may stop the call, which then ends with [`Error::Aborted`].
pub type OnPiece<'a> = &'a mut dyn FnMut(Piece<'_>) -> ControlFlow<()>;

/// A model on a device: see the [crate's front page](crate) for what it does.
///
/// Where the device is lost it goes on by itself, unless [`Builder::recover`](crate::Builder::recover) says no.
pub struct Model {
    loaded: Loaded,
    config: Config,
    preprocessor: Preprocessor,
    tokenizer: Option<Tokenizer>,
    kv_cache: KvCacheType,
}

impl Model {
    pub(crate) fn new(
        loaded: Loaded,
        config: Config,
        preprocessor: Preprocessor,
        tokenizer: Option<Tokenizer>,
        kv_cache: KvCacheType,
    ) -> Model {
        Model { loaded, config, preprocessor, tokenizer, kv_cache }
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it runs on: another adapter than before, where that was lost and stayed away.
    pub fn device_info(&self) -> DeviceInfo {
        self.loaded.device().info()
    }

    /// What the check of the GPU found so far.
    pub fn check_report(&self) -> CheckReport {
        self.loaded.check_report()
    }

    /// Bytes of GPU memory held now, and the most there ever were.
    pub fn memory(&self) -> (u64, u64) {
        self.loaded.device().memory()
    }

    /// How pictures are made ready.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// From now on pictures are the squares that [`Preprocessor::square`] cuts out.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn take_squares(&mut self) {
        self.preprocessor = self.preprocessor.of_squares();
    }

    /// # Errors
    /// `E_IO` when the checkpoint has no tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(no_tokenizer)
    }

    /// What tells it from other models.
    pub(crate) fn id(&self) -> u32 {
        self.loaded.id()
    }

    /// Where its weights lie.
    #[doc(hidden)]
    pub fn checkpoint(&self) -> &Checkpoint {
        self.loaded.checkpoint()
    }

    /// Runs passes over tensors that the caller makes, again from their start where the device is lost meanwhile.
    ///
    /// # Errors
    /// Those of `call`; `E_DEVICE_LOST` and `E_OOM` where the device is lost again and again.
    #[doc(hidden)]
    pub async fn run<T>(&self, call: impl AsyncFnMut(&Network) -> Result<T>) -> Result<T> {
        self.loaded.run(&[Task::Pictures, Task::EmbedPictures, Task::EmbedTexts], call).await
    }

    /// The passes over tensors, without recovery: for tests and measurements.
    ///
    /// # Panics
    /// Where the device was lost, and the model is not loaded again yet.
    #[doc(hidden)]
    pub fn network(&self) -> Rc<Network> {
        self.loaded.made().expect("the device was lost")
    }

    /// Dispatches of a decode step of the last generation.
    #[doc(hidden)]
    pub fn dispatches_per_token(&self) -> usize {
        self.loaded.made().map_or(0, |network| network.dispatches_per_token())
    }

    /// What it loaded.
    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// What it loaded, to be changed.
    pub(crate) fn loaded_mut(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// The adapter in use, and its strength.
    pub fn adapter(&self) -> Option<(&str, f32)> {
        self.loaded.learned().map(|learning| (learning.weights.name.as_str(), learning.strength))
    }

    /// The options as this model takes them.
    pub(crate) fn resolve(&self, options: &GenerateOptions) -> Result<Resolved> {
        options.resolve(&self.config.text, self.kv_cache)
    }

    /// A picture as InternViT takes it.
    pub fn pixel_values(&self, picture: &Picture) -> PixelValues {
        self.preprocessor.pixel_values(picture)
    }

    /// As [`Model::caption`], to be awaited; the only form in browsers.
    ///
    /// # Errors
    /// As [`Model::generate_async`].
    pub async fn caption_async(&self, picture: &Picture, options: &CaptionOptions) -> Result<Caption> {
        self.caption_with_async(picture, options, &mut |_| ControlFlow::Continue(())).await
    }

    /// As [`Model::caption_with`], to be awaited.
    ///
    /// # Errors
    /// As [`Model::generate_async`].
    pub async fn caption_with_async(
        &self,
        picture: &Picture,
        options: &CaptionOptions,
        on_piece: OnPiece<'_>,
    ) -> Result<Caption> {
        self.tokenizer()?;
        let text = options.prompt.as_deref().unwrap_or(CAPTION_PROMPT);
        let prompt = Prompt { picture: Some(picture), text: Some(text), ids: None };
        let best = self.generate_with_async(&prompt, &options.generate, on_piece).await?.swap_remove(0);
        let text = best.text.expect("there is a tokenizer");
        Ok(Caption { text, ids: best.ids, score: best.score, end_id: best.end_id })
    }

    /// As [`Model::generate`], to be awaited.
    ///
    /// # Errors
    /// `E_INPUT` for options that are wrong and for a prompt that is empty, `E_TOKEN`, `E_CONTEXT`, `E_STATE` for a
    /// picture where the model has no InternViT, `E_IO` for text where it has no tokenizer, all before anything runs;
    /// `E_NONFINITE` for logits that are not numbers; the device's errors.
    pub async fn generate_async(&self, prompt: &Prompt<'_>, options: &GenerateOptions) -> Result<Vec<Generation>> {
        self.generate_with_async(prompt, options, &mut |_| ControlFlow::Continue(())).await
    }

    /// As [`Model::generate_with`], to be awaited.
    ///
    /// # Errors
    /// As [`Model::generate_async`]; `E_ABORTED` where `on_piece` broke off.
    pub async fn generate_with_async(
        &self,
        prompt: &Prompt<'_>,
        options: &GenerateOptions,
        on_piece: OnPiece<'_>,
    ) -> Result<Vec<Generation>> {
        let ids = self.ids_of(prompt)?;
        let mut inputs = GenerateInputs::default();
        if !ids.is_empty() {
            inputs.input_ids = Some(Array::new(&[1, ids.len()], ids));
        }
        inputs.pixel_values = prompt.picture.map(|picture| self.pixel_values(picture));
        self.generate_from_async(&inputs, options, on_piece).await
    }

    /// The ids of a prompt's text.
    pub(super) fn ids_of(&self, prompt: &Prompt<'_>) -> Result<Vec<i64>> {
        match (prompt.text, prompt.ids) {
            (Some(_), Some(_)) => {
                Err(Error::Input { reason: "give either a text or ids to continue, not both".into() })
            }
            (Some(text), None) => Ok(self.tokenizer()?.encode_prompt(text).into_iter().map(i64::from).collect()),
            (None, ids) => Ok(ids.unwrap_or_default().iter().map(|&id| id.into()).collect()),
        }
    }

    /// Generates from tensors: a sequence of its own for each row of the batch, `num_return_sequences` for each, best
    /// first, one behind the other.
    ///
    /// # Errors
    /// Those of [`Model::generate_async`]; `E_INPUT_SHAPE` for tensors of other shapes.
    pub async fn generate_from_async(
        &self,
        inputs: &GenerateInputs<'_>,
        options: &GenerateOptions,
        on_piece: OnPiece<'_>,
    ) -> Result<Vec<Generation>> {
        let options = self.resolve(options)?;
        let mut streams = Streams { tokenizer: self.tokenizer.as_ref(), texts: Vec::new() };
        let mut told = Told { events: Vec::new(), loaded: &self.loaded };
        let tasks = [Task::Pictures, Task::texts(inputs.check(&self.config, &options)?.batch, &options)];
        let found = self.loaded.run(&tasks, async |network| {
            let mut replay = told.replay();
            let on_event = &mut |event| match event {
                _ if replay.knows(event) => replay.goes_on(),
                Event::Token { id, .. } if options.ends(id) => ControlFlow::Continue(()),
                Event::Token { sequence, id } => {
                    on_piece(Piece { sequence, text: &streams.push(sequence, id), id: Some(id) })
                }
                Event::BeamStep => on_piece(Piece { sequence: 0, text: "", id: None }),
            };
            let found = network.generate(inputs, &options, on_event).await;
            replay.agrees().and(found)
        });
        let found = found.await?;
        let all: Vec<Generation> = found.into_iter().flatten().map(|s| self.generation(s, &options)).collect();
        for (sequence, generation) in all.iter().enumerate() {
            let rest = match options.num_beams {
                1 => streams.finish(sequence),
                _ => generation.text.clone().unwrap_or_default(),
            };
            // What is said here changes nothing any more.
            if !rest.is_empty() && on_piece(Piece { sequence, text: &rest, id: None }).is_break() {
                break;
            }
        }
        Ok(all)
    }

    pub(super) fn generation(&self, found: Sequence, options: &Resolved) -> Generation {
        let ids = options.without_ends(&found.ids);
        let text = self.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&ids));
        let end_id = found.ids.last().copied().filter(|&id| options.ends(id));
        Generation { text, ids, score: found.score, end_id }
    }

    /// As [`Model::match_texts`], to be awaited.
    ///
    /// # Errors
    /// As [`Model::matcher_async`].
    pub async fn match_texts_async(
        &self,
        pictures: &[Picture],
        texts: &[impl AsRef<str>],
        mode: Mode,
    ) -> Result<Vec<Vec<f32>>> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let matcher = self.matcher_async(&texts, mode).await?;
        let mut rows = Vec::with_capacity(pictures.len());
        for picture in pictures {
            rows.push(matcher.row_async(picture).await?);
        }
        Ok(rows)
    }

    /// Texts to compare pictures with, one by one.
    ///
    /// # Errors
    /// `E_INPUT` without texts; `E_STATE` where the checkpoint lacks the heads; `E_IO` without a tokenizer; the device's.
    pub async fn matcher_async(&self, texts: &[&str], mode: Mode) -> Result<Matcher<'_>> {
        if texts.is_empty() {
            return Err(Error::Input { reason: "give at least one text to compare with".into() });
        }
        let prefix = if mode == Mode::Itm { "" } else { SUMMARIZE };
        let tokenizer = self.tokenizer()?;
        let ids: Vec<u32> = texts.iter().flat_map(|t| tokenizer.encode_text(&format!("{prefix}{t}"))).collect();
        let embeddings = match mode {
            Mode::Itm => Vec::new(),
            Mode::C | Mode::G => {
                let embed = async |network: &Network| network.embed_text(&ids, texts.len()).await;
                self.loaded.run(&[Task::EmbedTexts], embed).await?
            }
        };
        Ok(Matcher { model: self, mode, count: texts.len(), ids, embeddings })
    }

    /// As [`Model::embed_picture`], to be awaited.
    ///
    /// # Errors
    /// `E_STATE` where the checkpoint lacks the heads; `E_INPUT` for [`Mode::Itm`]; the device's.
    pub async fn embed_picture_async(&self, picture: &Picture, mode: Mode) -> Result<Vec<f32>> {
        let pixels = self.pixel_values(picture);
        let embed = async |network: &Network| embed_vision(network, &network.vision(&pixels).await?, mode).await;
        self.loaded.run(&[Task::Pictures, Task::EmbedPictures], embed).await
    }

    /// As [`Model::embed_text`], to be awaited.
    ///
    /// # Errors
    /// `E_STATE` where the checkpoint lacks the heads; `E_IO` without a tokenizer; the device's.
    pub async fn embed_text_async(&self, text: &str) -> Result<Vec<f32>> {
        let ids = self.tokenizer()?.encode_text(&format!("{SUMMARIZE}{text}"));
        self.loaded.run(&[Task::EmbedTexts], async |network| network.embed_text(&ids, 1).await).await
    }
}

async fn embed_vision(network: &Network, vision: &Vision, mode: Mode) -> Result<Vec<f32>> {
    match mode {
        Mode::C => network.embed_images_c(vision).await,
        Mode::G => network.embed_images_g(vision, &network.cross_states(vision).await?).await,
        Mode::Itm => {
            let reason = "image-text matching compares pairs: a picture alone has no embedding there".into();
            Err(Error::Input { reason })
        }
    }
}

/// Texts made ready to be compared with pictures.
pub struct Matcher<'a> {
    model: &'a Model,
    mode: Mode,
    count: usize,
    ids: Vec<u32>,
    embeddings: Vec<f32>,
}

impl Matcher<'_> {
    /// A picture's probabilities over the texts, which sum to 1; with [`Mode::Itm`] each pair's own.
    ///
    /// # Errors
    /// `E_STATE` where the checkpoint lacks the heads, `E_NONFINITE`; the device's.
    pub async fn row_async(&self, picture: &Picture) -> Result<Vec<f32>> {
        self.row_of_pixels_async(&self.model.pixel_values(picture)).await
    }

    /// As [`Matcher::row_async`], for a picture that was made ready before.
    ///
    /// # Errors
    /// As [`Matcher::row_async`].
    pub async fn row_of_pixels_async(&self, pixels: &PixelValues) -> Result<Vec<f32>> {
        let Matcher { model, mode, count, ids, embeddings } = self;
        let tasks = [Task::Pictures, if *mode == Mode::Itm { Task::Matching } else { Task::EmbedPictures }];
        let row = model.loaded.run(&tasks, async |network| {
            let vision = network.vision(pixels).await?;
            if *mode == Mode::Itm {
                let crossed = network.cross_states(&vision).await?;
                let logits = network.itm(&[&crossed], ids, *count).await?;
                return Ok(logits.chunks(2).map(|pair| softmax(pair.to_vec())[1]).collect());
            }
            let picture = embed_vision(network, &vision, *mode).await?;
            Ok(softmax(network.logits_per_image(&picture, embeddings)?))
        });
        row.await
    }
}

/// What a generation told, so that one that is run again tells nothing twice.
struct Told<'a> {
    events: Vec<Event>,
    loaded: &'a Loaded,
}

/// One run of it.
struct Replay<'t, 'a> {
    told: &'t mut Told<'a>,
    /// Events of this run.
    seen: usize,
    /// Whether one of them was another than before.
    differs: bool,
}

impl<'a> Told<'a> {
    fn replay(&mut self) -> Replay<'_, 'a> {
        Replay { told: self, seen: 0, differs: false }
    }
}

impl Replay<'_, '_> {
    /// Whether an event was told by an earlier run; notes it where not.
    fn knows(&mut self, event: Event) -> bool {
        let before = self.told.events.get(self.seen).copied();
        self.seen += 1;
        self.differs |= before.is_some_and(|before| before != event);
        if before.is_none() {
            self.told.events.push(event);
            self.told.loaded.progress();
        }
        before.is_some()
    }

    fn goes_on(&self) -> ControlFlow<()> {
        if self.differs { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// # Errors
    /// `E_DEVICE_LOST` where this run would have told another text than the one before it, whose device was lost:
    /// another adapter may compute other last bits.
    fn agrees(&self) -> Result<()> {
        if !self.differs {
            return Ok(());
        }
        let adapter = self.told.loaded.device().info().name;
        Err(Error::DeviceLost { reason: format!("{adapter} took its place, and chooses other words than were told") })
    }
}

/// The texts of several sequences, decoded as their tokens come.
struct Streams<'a> {
    tokenizer: Option<&'a Tokenizer>,
    texts: Vec<DecodeStream>,
}

impl Streams<'_> {
    /// What became final of a sequence's text by a token.
    fn push(&mut self, sequence: usize, id: u32) -> String {
        let Some(tokenizer) = self.tokenizer else { return String::new() };
        while self.texts.len() <= sequence {
            self.texts.push(tokenizer.decode_stream());
        }
        self.texts[sequence].push(id)
    }

    /// What waited for the rest of a character.
    fn finish(&mut self, sequence: usize) -> String {
        self.texts.get_mut(sequence).map(DecodeStream::finish).unwrap_or_default()
    }
}

pub(crate) fn no_tokenizer() -> Error {
    let reason = "not in the checkpoint's folder, and texts need it".into();
    Error::Io { file: "tokenizer.model".into(), reason }
}
