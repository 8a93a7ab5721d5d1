//! From files to a model: which files, which adapter, how much memory.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::device::{Adapter, Device};
use crate::error::{Error, Result};
use crate::files::checkpoint::Checkpoint;
use crate::files::config::Config;
use crate::files::gguf::Gguf;
use crate::files::location::Location;
use crate::files::notes::Notes;
#[cfg(not(target_arch = "wasm32"))]
use crate::files::notes::NotesFolder;
use crate::files::peft::AdapterWeights;
use crate::files::source::{Source, read_small};
use crate::generate::inputs::GenerateInputs;
use crate::generate::options::{GenerateOptions, KvCacheType};
use crate::image::Preprocessor;
use crate::model::calls::{Task, fits};
use crate::model::check::{Check, CheckReport, Checks, OnWrong, Tried};
use crate::model::front::{Model, no_tokenizer};
use crate::model::recovery::{Loaded, OnRecovered, Recovered, is_loss};
use crate::text::Tokenizer;

pub use crate::model::network::Progress;

/// Small files of a checkpoint are refused above this size.
const SMALL_FILE_BYTES: u64 = 32 << 20;
/// The side of pictures where nothing tells another, in pixels: CLIP's.
const USUAL_SIDE: u32 = 224;

/// How a model is to be loaded; [`Model::builder`] makes one.
pub struct Builder<'a> {
    location: Result<Location>,
    adapter: Adapter,
    device: Option<Device>,
    memory_budget: Option<u64>,
    kv_cache: KvCacheType,
    learned: Option<(AdapterWeights, f32)>,
    check: Check,
    notes: Option<Box<dyn Notes>>,
    on_wrong: Option<OnWrong>,
    on_progress: Box<dyn FnMut(Progress) + 'a>,
    recover: bool,
    on_recovered: Option<OnRecovered>,
}

impl<'a> Builder<'a> {
    /// Loads from files of any kind.
    pub fn new(location: Location) -> Builder<'a> {
        Builder::of(Ok(location))
    }

    /// A location that was not found is told of when the files are opened.
    pub(crate) fn of(location: Result<Location>) -> Builder<'a> {
        Builder {
            location,
            adapter: Adapter::Best,
            device: None,
            memory_budget: None,
            kv_cache: KvCacheType::F32,
            learned: None,
            // A page says where findings are kept, or would check at every load.
            check: if cfg!(target_arch = "wasm32") { Check::Off } else { Check::On },
            notes: users_notes(),
            on_wrong: None,
            on_progress: Box::new(|_| {}),
            recover: true,
            on_recovered: None,
        }
    }

    /// The adapter to run on: `cpu`, part of its name, or its number in [`adapters`](crate::adapters). The best unless
    /// told otherwise.
    pub fn adapter(mut self, adapter: impl Into<Adapter>) -> Builder<'a> {
        self.adapter = adapter.into();
        self
    }

    /// A device that is open already, in place of an adapter; its memory budget stays as it is unless one is given here.
    pub fn device(mut self, device: &Device) -> Builder<'a> {
        self.device = Some(device.clone());
        self
    }

    /// The most bytes of GPU memory that the model may take, weights and activations. Where it is too little for all
    /// weights, those that only pictures need are read again for every picture; results are the same to the bit.
    pub fn memory_budget(mut self, bytes: u64) -> Builder<'a> {
        self.memory_budget = Some(bytes);
        self
    }

    /// How keys and values are stored where [`GenerateOptions`](crate::GenerateOptions) do not tell.
    pub fn kv_cache(mut self, kv_cache: KvCacheType) -> Builder<'a> {
        self.kv_cache = kv_cache;
        self
    }

    /// What was learned beside the weights, and how much of it is used: see [`Model::use_adapter`].
    pub fn adapter_weights(mut self, weights: AdapterWeights, strength: f32) -> Builder<'a> {
        self.learned = Some((weights, strength));
        self
    }

    /// Whether the GPU is checked before it is trusted: each kernel is compared with what it should compute, once an adapter,
    /// driver and version; those of captions while the model is loaded, those of other tasks when they are first asked for.
    /// What computes wrongly is left out: see [`Model::check_report`].
    pub fn check(mut self, check: Check) -> Builder<'a> {
        self.check = check;
        self
    }

    /// Where findings about adapters are kept; the folder `qllama` of the user's cache directory unless told otherwise.
    pub fn notes(mut self, notes: impl Notes + 'static) -> Builder<'a> {
        self.notes = Some(Box::new(notes));
        self
    }

    /// Hears of each time that the adapter is found to compute something wrongly: what the check found so far. Where other
    /// kernels take the place of those that are wrong, the work goes on.
    pub fn on_wrong(mut self, on_wrong: impl Fn(&CheckReport) + 'static) -> Builder<'a> {
        self.on_wrong = Some(Box::new(on_wrong));
        self
    }

    /// Hears how far the loading of weights is.
    pub fn on_progress(mut self, on_progress: impl FnMut(Progress) + 'a) -> Builder<'a> {
        self.on_progress = Box::new(on_progress);
        self
    }

    /// Whether the model goes on by itself when the device is lost, while it is loaded and ever after: it opens the adapter
    /// again, or another where that is gone, loads the weights again, and runs the call again; who called sees a pause and
    /// the same result. It does unless told otherwise; without, the call and all later ones end with `E_DEVICE_LOST`.
    /// After three losses in a row, the call having got no further, it ends so too, and the next one tries anew.
    pub fn recover(mut self, recover: bool) -> Builder<'a> {
        self.recover = recover;
        self
    }

    /// Hears of each time that the model went on after its device was lost.
    pub fn on_recovered(mut self, on_recovered: impl Fn(&Recovered) + 'static) -> Builder<'a> {
        self.on_recovered = Some(Box::new(on_recovered));
        self
    }

    /// Opens the files and reads all but the weights.
    ///
    /// # Errors
    /// The files'; see [`Error`](crate::Error).
    pub async fn open_async(self) -> Result<Opened<'a>> {
        let files = match self.location? {
            Location::Folder(source) => Files::of_folder(Checkpoint::open(source).await?).await?,
            Location::Gguf(source, name) => {
                let gguf = Gguf::open(&*source, &name).await?;
                Files::of_gguf(source, gguf)?
            }
        };
        Ok(Opened {
            files,
            adapter: self.adapter,
            device: self.device,
            memory_budget: self.memory_budget,
            kv_cache: self.kv_cache,
            learned: self.learned,
            check: self.check,
            notes: self.notes,
            on_wrong: self.on_wrong,
            on_progress: self.on_progress,
            recover: self.recover,
            on_recovered: self.on_recovered,
        })
    }

    /// Opens the files, opens the adapter and brings the weights to it. Names, shapes, types and memory are checked
    /// before the first weight is read.
    ///
    /// # Errors
    /// The files'; `E_ADAPTER` where there is no such adapter; `E_LIMIT` where the model does not fit; the device's.
    pub async fn load_async(self) -> Result<Model> {
        self.open_async().await?.load_async().await
    }
}

/// A checkpoint's files but its weights.
struct Files {
    preprocessor: Preprocessor,
    checkpoint: Checkpoint,
    tokenizer: Option<Tokenizer>,
}

impl Files {
    async fn of_folder(checkpoint: Checkpoint) -> Result<Files> {
        let tokenizer = match checkpoint.read_small("tokenizer.model", SMALL_FILE_BYTES).await? {
            Some(bytes) => Some(Tokenizer::from_bytes("tokenizer.model", &bytes)?),
            None => None,
        };
        let preprocessor = match checkpoint.read_small("preprocessor_config.json", SMALL_FILE_BYTES).await? {
            Some(bytes) => Preprocessor::from_bytes("preprocessor_config.json", &bytes)?,
            None => Preprocessor::new(checkpoint.config.vision.as_ref().map_or(USUAL_SIDE, |v| v.image_size as u32))?,
        };
        Ok(Files { preprocessor, checkpoint, tokenizer })
    }

    fn of_gguf(source: Box<dyn Source>, mut gguf: Gguf) -> Result<Files> {
        let tokenizer = gguf.tokenizer.take();
        // Pictures mean nothing to such a model.
        let preprocessor = Preprocessor::new(USUAL_SIDE)?;
        Ok(Files { preprocessor, checkpoint: Checkpoint::from_gguf(source, gguf), tokenizer })
    }
}

/// A checkpoint whose files were opened and whose small ones were read, before any weight was: what pictures, texts
/// and options can be checked against before minutes are spent on loading.
pub struct Opened<'a> {
    files: Files,
    adapter: Adapter,
    device: Option<Device>,
    memory_budget: Option<u64>,
    kv_cache: KvCacheType,
    learned: Option<(AdapterWeights, f32)>,
    check: Check,
    notes: Option<Box<dyn Notes>>,
    on_wrong: Option<OnWrong>,
    on_progress: Box<dyn FnMut(Progress) + 'a>,
    recover: bool,
    on_recovered: Option<OnRecovered>,
}

impl Opened<'_> {
    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.files.checkpoint.config
    }

    /// How pictures are made ready.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.files.preprocessor
    }

    /// Where the weights lie.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.files.checkpoint
    }

    /// # Errors
    /// `E_IO` when the checkpoint has no tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.files.tokenizer.as_ref().ok_or_else(no_tokenizer)
    }

    /// Checks what [`Model::generate_from_async`] will be given, without the weights.
    ///
    /// # Errors
    /// Its own.
    pub fn check_generate(&self, inputs: &GenerateInputs<'_>, options: &GenerateOptions) -> Result<()> {
        let config = self.config();
        inputs.check(config, &options.resolve(&config.text, self.kv_cache)?).map(|_| ())
    }

    async fn open_device(&mut self) -> Result<Device> {
        let device = match self.device.take() {
            Some(device) => device,
            None => Device::open(&self.adapter).await?,
        };
        if let Some(bytes) = self.memory_budget {
            device.set_memory_budget(bytes);
        }
        Ok(device)
    }

    /// Opens the adapter and tries each call of a kernel that the model would make on it, without loading the model;
    /// `on_tried` hears of each.
    ///
    /// # Errors
    /// As [`Builder::load_async`]; an adapter that computes wrongly is told of by [`CheckReport::usable`].
    pub async fn check_async(mut self, on_tried: &mut dyn FnMut(&Tried)) -> Result<CheckReport> {
        let device = self.open_device().await?;
        let checkpoint = Rc::new(self.files.checkpoint);
        fits(&checkpoint, &device).await?;
        let checks = Checks::new(checkpoint, self.check, self.notes, None);
        match checks.ensure(&device, &Task::all(), on_tried).await {
            Ok(()) | Err(Error::Adapter { .. }) => Ok(checks.report(&device.info())),
            Err(error) => Err(error),
        }
    }

    /// Opens the adapter, checks it, and brings the weights to it.
    ///
    /// # Errors
    /// As [`Builder::load_async`].
    pub async fn load_async(mut self) -> Result<Model> {
        let device = self.open_device().await?;
        let Files { preprocessor, checkpoint, tokenizer } = self.files;
        let config = checkpoint.config.clone();
        let checkpoint = Rc::new(checkpoint);
        fits(&checkpoint, &device).await?;
        let checks = Rc::new(Checks::new(checkpoint.clone(), self.check, self.notes, self.on_wrong));
        let tasks = [Task::Pictures, Task::text(self.kv_cache)];
        let on_tried: &mut dyn FnMut(&Tried) = &mut |_| {};
        let check = async {
            match checks.ensure(&device, &tasks, on_tried).await {
                // What takes the device's place is asked when it is used.
                Err(error) if self.recover && is_loss(&error, &device) => Ok(()),
                checked => checked,
            }
        };
        let (checks, device) = (checks.clone(), device.clone());
        let load = Loaded::load(checkpoint, checks, device, self.recover, self.on_recovered, &mut *self.on_progress);
        let ((), loaded) = both(check, load).await?;
        let mut model = Model::new(loaded, config, preprocessor, tokenizer, self.kv_cache);
        if let Some((weights, strength)) = &self.learned {
            model.use_adapter(weights, *strength)?;
        }
        Ok(model)
    }
}

/// Both results. The first goes on whenever the second waits: on a machine of its own, where nothing waits, it is done before
/// the second begins; in a browser they run beside each other. An error of one ends both.
async fn both<A, B>(first: impl Future<Output = Result<A>>, second: impl Future<Output = Result<B>>) -> Result<(A, B)> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut a, mut b) = (None, None);
    poll_fn(|context| {
        if a.is_none() {
            match first.as_mut().poll(context) {
                Poll::Ready(Ok(done)) => a = Some(done),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if b.is_none() {
            match second.as_mut().poll(context) {
                Poll::Ready(Ok(done)) => b = Some(done),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready(Ok((a, b))),
            (first, second) => {
                (a, b) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}

/// Where findings about adapters are kept unless told otherwise.
fn users_notes() -> Option<Box<dyn Notes>> {
    #[cfg(not(target_arch = "wasm32"))]
    return Some(Box::new(NotesFolder::of_user()?));
    #[cfg(target_arch = "wasm32")]
    None
}

/// The tokenizer of a model, without anything else of it.
///
/// # Errors
/// `E_IO` where there is none, `E_TOKENIZER`.
pub async fn read_tokenizer(location: Location) -> Result<Tokenizer> {
    let tokenizer = match location {
        Location::Folder(source) => match read_small(&*source, "tokenizer.model", SMALL_FILE_BYTES).await? {
            Some(bytes) => Some(Tokenizer::from_bytes("tokenizer.model", &bytes)?),
            None => None,
        },
        Location::Gguf(source, name) => Gguf::open(&*source, &name).await?.tokenizer,
    };
    tokenizer.ok_or_else(no_tokenizer)
}
