//! What the worker in `web/` calls: the engine behind wasm-bindgen. Files come from two functions of the worker, which
//! knows downloads and their cache; numbers cross as typed arrays with shapes; errors as objects with a stable `code`.
//!
//! Only this file names wasm-bindgen and js-sys.

use js_sys::{Array as JsArray, BigInt64Array, Float32Array, Function, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::device::Array;
use crate::device::Device;
use crate::device::gpu::{Gpu, candidates};
use crate::error::{Error, Result, printable};
use crate::files::source::{LocalFuture, Source, is_plain_name};
use crate::generate::beams::EarlyStopping;
use crate::generate::session::{GenerateOptions, Generated};
use crate::image::{Picture, decode};
use crate::model::forward::{Inputs, Outputs, PastKeyValues};
use crate::model::{Crossed, Mode, Model, PixelValues, Vision};
use crate::ops::logits::sampling::Sampling;
use crate::text::SUMMARIZE;

/// Where the last panic's message is left for the worker, which sees only a trap.
const PANIC: &str = "qllamaPanic";

type JsResult<T> = std::result::Result<T, JsValue>;

#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| {
        let _ = Reflect::set(&js_sys::global(), &PANIC.into(), &info.to_string().into());
    }));
}

/// An error as the worker passes it on: `{ code, message }`.
fn throw(error: Error) -> JsValue {
    object(&[("code", error.code().into()), ("message", error.to_string().into())])
}

fn object(entries: &[(&str, JsValue)]) -> JsValue {
    let out = Object::new();
    for (key, value) in entries {
        // A plain object takes any key.
        let _ = Reflect::set(&out, &(*key).into(), value);
    }
    out.into()
}

/// A property that is there: neither undefined nor null.
fn get(from: &JsValue, key: &str) -> Option<JsValue> {
    Reflect::get(from, &key.into()).ok().filter(|v| !v.is_undefined() && !v.is_null())
}

fn input_error<T>(reason: String) -> Result<T> {
    Err(Error::Input { reason })
}

fn size_of(value: &JsValue) -> Option<usize> {
    value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n)).map(|n| n as usize)
}

fn size_to_js(size: usize) -> JsValue {
    JsValue::from_f64(size as f64)
}

fn whole(from: &JsValue, key: &str, default: usize) -> Result<usize> {
    match get(from, key) {
        None => Ok(default),
        Some(value) => match size_of(&value) {
            Some(n) => Ok(n),
            None => input_error(format!("{key}: expected a whole number of at least 0")),
        },
    }
}

fn number(from: &JsValue, key: &str, default: f32) -> Result<f32> {
    match get(from, key) {
        None => Ok(default),
        Some(value) => match value.as_f64() {
            Some(n) if n.is_finite() => Ok(n as f32),
            _ => input_error(format!("{key}: expected a finite number")),
        },
    }
}

fn flag(from: &JsValue, key: &str) -> bool {
    get(from, key).is_some_and(|v| v.is_truthy())
}

fn text(from: &JsValue, key: &str) -> Result<Option<String>> {
    match get(from, key) {
        None => Ok(None),
        Some(value) => match value.as_string() {
            Some(text) => Ok(Some(text)),
            None => input_error(format!("{key}: expected a string")),
        },
    }
}

/// Files through the worker: `size(name)` resolves to a number or null, `read(name, offset, length)` to a Uint8Array.
struct Fetched {
    name: String,
    files: JsValue,
}

impl Fetched {
    async fn call(&self, function: &str, file: &str, args: &[JsValue]) -> Result<JsValue> {
        let failed = |e: JsValue| from_js(file, &e);
        let function: Function = Reflect::get(&self.files, &function.into()).map_err(failed)?.unchecked_into();
        let args: JsArray = args.iter().collect();
        let promise: Promise = function.apply(&self.files, &args).map_err(failed)?.unchecked_into();
        JsFuture::from(promise).await.map_err(failed)
    }
}

/// An error that the worker's functions rejected with.
fn from_js(file: &str, error: &JsValue) -> Error {
    let field = |key| get(error, key).and_then(|v| v.as_string());
    let number = |key| get(error, key).and_then(|v| v.as_f64()).unwrap_or(0.0);
    let reason = field("reason").or_else(|| field("message")).unwrap_or_else(|| format!("{error:?}"));
    let file = field("file").unwrap_or_else(|| file.to_string());
    match field("code").as_deref() {
        Some("E_ABORTED") => Error::Aborted,
        Some("E_HTTP") => Error::Http { url: file, status: number("status") as u16, reason },
        Some("E_TRUNCATED") => Error::Truncated { file, need: number("need") as u64, have: number("have") as u64 },
        Some("E_INTEGRITY") => Error::Integrity {
            file,
            expected: field("expected").unwrap_or_default(),
            found: field("found").unwrap_or_default(),
        },
        Some("E_STORAGE") => Error::Storage { reason },
        _ => Error::Io { file, reason },
    }
}

impl Source for Fetched {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            if !is_plain_name(name) {
                return Err(Error::Path { file: self.describe(), name: printable(name) });
            }
            Ok(self.call("size", name, &[name.into()]).await?.as_f64().map(|n| n as u64))
        })
    }

    fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let args = [name.into(), (offset as f64).into(), (buf.len() as f64).into()];
            let bytes = self.call("read", name, &args).await?;
            let Ok(bytes) = bytes.dyn_into::<Uint8Array>() else {
                return Err(Error::Io { file: name.into(), reason: "no bytes came back".into() });
            };
            if bytes.length() as usize != buf.len() {
                let (need, have) = (offset + buf.len() as u64, offset + u64::from(bytes.length()));
                return Err(Error::Truncated { file: name.into(), need, have });
            }
            bytes.copy_to(buf);
            Ok(())
        })
    }
}

/// A loaded model.
#[wasm_bindgen(js_name = Model)]
pub struct WebModel {
    model: Model,
}

/// Opens the browser's adapter and loads a checkpoint. `files` as in [`Fetched`]; `gguf` is the name of the GGUF file
/// there, or none for a folder of safetensors; `on_progress(bytes, total)` is told of weights that reached the GPU;
/// `budget` is the most bytes of GPU memory that the model may take, 0 for any: see [`Device::set_memory_budget`].
#[wasm_bindgen]
pub async fn load(
    name: String,
    files: JsValue,
    gguf: Option<String>,
    on_progress: Function,
    budget: f64,
) -> JsResult<WebModel> {
    let model = async {
        let device = open_device().await?;
        let source = || Box::new(Fetched { name: name.clone(), files: files.clone() });
        if budget > 0.0 {
            device.set_memory_budget(budget as u64);
        }
        let mut progress = |p: crate::model::Progress| {
            let _ = on_progress.call2(&JsValue::NULL, &(p.bytes as f64).into(), &(p.total as f64).into());
        };
        let model = match &gguf {
            Some(file) => Model::load_gguf(source(), file, &device, &mut progress).await,
            None => Model::load(source(), &device, &mut progress).await,
        };
        settle(&device, model).await
    };
    Ok(WebModel { model: model.await.map_err(throw)? })
}

async fn open_device() -> Result<Device> {
    match candidates().await.into_iter().next() {
        Some(candidate) => Ok(Device::gpu(Gpu::open(candidate).await?)),
        None => Err(Error::Adapter { reason: "this browser offers no WebGPU adapter".into() }),
    }
}

/// A read that fails may be the first sign of a lost device, whose own message comes a little later.
async fn settle<T>(device: &Device, result: Result<T>) -> Result<T> {
    if let (Err(Error::Gpu { .. }), Some(gpu)) = (&result, device.as_gpu()) {
        for _ in 0..10 {
            if let Some(reason) = gpu.lost() {
                return Err(Error::DeviceLost { reason });
            }
            sleep(20).await;
        }
    }
    result
}

async fn sleep(milliseconds: i32) {
    let timer = Promise::new(&mut |resolve, _| {
        let timeout = Reflect::get(&js_sys::global(), &"setTimeout".into()).map(|f| f.unchecked_into::<Function>());
        if let Ok(timeout) = timeout {
            let _ = timeout.call2(&JsValue::NULL, &resolve, &milliseconds.into());
        }
    });
    let _ = JsFuture::from(timer).await;
}

#[wasm_bindgen(js_class = Model)]
impl WebModel {
    /// What is loaded, and what it runs on.
    pub fn info(&self) -> JsValue {
        let config = &self.model.config;
        let device = self.model.device().info();
        let (held, peak) = self.model.device().memory();
        let text = &config.text;
        object(&[
            ("name", self.model.checkpoint().describe().into()),
            ("adapter", device.name.into()),
            ("backend", device.backend.into()),
            ("software", device.software.into()),
            ("maxBindingBytes", (device.max_binding_bytes as f64).into()),
            ("maxBufferBytes", (device.max_buffer_bytes as f64).into()),
            ("gpuBytes", (held as f64).into()),
            ("gpuBytesPeak", (peak as f64).into()),
            ("dispatchesPerToken", size_to_js(self.model.dispatches_per_token())),
            ("vision", config.vision.is_some().into()),
            ("match", config.clip.is_some().into()),
            ("imageSize", size_to_js(self.model.preprocessor.size() as usize)),
            ("layers", size_to_js(text.num_hidden_layers)),
            (
                "crossAttentionLayers",
                size_to_js((0..text.num_hidden_layers).filter(|&i| text.cross_attends(i)).count()),
            ),
            ("hiddenSize", size_to_js(text.hidden_size)),
            ("vocabSize", size_to_js(text.vocab_size)),
            ("queryTokens", size_to_js(text.num_query_token)),
            ("maxPositions", size_to_js(text.max_position_embeddings)),
        ])
    }

    /// Writes about a picture. `on_piece(text, id)` is told of each token, with what became final of the text; where
    /// it returns false, generation stops with `E_ABORTED`. Resolves to `{ text, ids, score, tokens }`, ids without
    /// the end id, which `tokens` counts.
    pub async fn caption(&self, image: JsValue, options: JsValue, on_piece: Function) -> JsResult<JsValue> {
        let run = async {
            let prompt = text(&options, "prompt")?.unwrap_or_else(|| "English caption:".into());
            let ids = self.model.tokenizer()?.encode_prompt(&prompt);
            let settings = self.options(&options)?;
            self.generate_from(Some(&image), &ids, &settings, &on_piece).await
        };
        self.settled(run.await).await
    }

    /// Continues a prompt, with or without a picture. As [`WebModel::caption`], with `inputIds` for `prompt`.
    pub async fn generate(&self, options: JsValue, on_piece: Function) -> JsResult<JsValue> {
        let run = async {
            let image = get(&options, "image");
            let ids = match (get(&options, "inputIds"), text(&options, "prompt")?) {
                (Some(_), Some(_)) => return input_error("give either prompt or inputIds, not both".into()),
                (Some(ids), None) => {
                    let ids = int_values("inputIds", &ids)?;
                    let vocab = self.model.config.text.vocab_size;
                    let mut out = Vec::with_capacity(ids.len());
                    for (index, &id) in ids.iter().enumerate() {
                        out.push(u32::try_from(id).map_err(|_| Error::Token { index, id, vocab })?);
                    }
                    out
                }
                (None, Some(prompt)) => self.model.tokenizer()?.encode_prompt(&prompt),
                (None, None) => return input_error("give prompt or inputIds".into()),
            };
            let settings = self.options(&options)?;
            self.generate_from(image.as_ref(), &ids, &settings, &on_piece).await
        };
        self.settled(run.await).await
    }

    /// Probabilities, pictures by texts; `mode` is `c`, `g` or `itm`. `on_step()` is asked before each picture.
    #[wasm_bindgen(js_name = matchTexts)]
    pub async fn match_texts(
        &self,
        images: Vec<JsValue>,
        texts: Vec<String>,
        mode: String,
        on_step: Function,
    ) -> JsResult<JsValue> {
        let run = async {
            if images.is_empty() || texts.is_empty() {
                return input_error("give at least one picture and one text".into());
            }
            let itm = mode == "itm";
            let image_mode = if itm { Mode::C } else { image_mode(&mode)? };
            let tokenizer = self.model.tokenizer()?;
            let prefix = if itm { "" } else { SUMMARIZE };
            let ids: Vec<u32> = texts.iter().flat_map(|t| tokenizer.encode_text(&format!("{prefix}{t}"))).collect();
            let of_texts = if itm { Vec::new() } else { self.model.embed_text(&ids, texts.len()).await? };
            let table = JsArray::new();
            for image in &images {
                if !goes_on(on_step.call0(&JsValue::NULL)) {
                    return Err(Error::Aborted);
                }
                let vision = self.vision(image).await?;
                let row: Vec<f32> = if itm {
                    let crossed = [self.model.cross_states(&vision).await?];
                    let logits = self.model.itm(&crossed, &ids, texts.len()).await?;
                    logits.chunks(2).map(|pair| softmax(pair)[1]).collect()
                } else {
                    let embedding = self.embedding(&vision, image_mode).await?;
                    softmax(&self.model.logits_per_image(&embedding, &of_texts)?)
                };
                table.push(&row.iter().map(|&p| JsValue::from_f64(p.into())).collect::<JsArray>());
            }
            Ok(table.into())
        };
        self.settled(run.await).await
    }

    /// A picture's embedding, not normalised; `mode` is `c` or `g`.
    #[wasm_bindgen(js_name = embedImage)]
    pub async fn embed_image(&self, image: JsValue, mode: String) -> JsResult<JsValue> {
        let run = async {
            let mode = image_mode(&mode)?;
            let vision = self.vision(&image).await?;
            Ok(Float32Array::from(self.embedding(&vision, mode).await?.as_slice()).into())
        };
        self.settled(run.await).await
    }

    /// A text's embedding, not normalised, with the prefix that matching uses.
    #[wasm_bindgen(js_name = embedText)]
    pub async fn embed_text(&self, text: String) -> JsResult<JsValue> {
        let run = async {
            let ids = self.model.tokenizer()?.encode_text(&format!("{SUMMARIZE}{text}"));
            Ok(Float32Array::from(self.model.embed_text(&ids, 1).await?.as_slice()).into())
        };
        self.settled(run.await).await
    }

    /// `LlamaForCausalLM.forward`: arrays are `{ data, shape }`, floats in a Float32Array and whole numbers in a
    /// BigInt64Array; `pastKeyValues`, in and out, is a list of `{ key, value }`, one a layer.
    pub async fn forward(&self, inputs: JsValue) -> JsResult<JsValue> {
        let run = async {
            let repeat_time = get(&inputs, "repeatTime").map(|_| whole(&inputs, "repeatTime", 1)).transpose()?;
            let outputs = self
                .model
                .forward(Inputs {
                    input_ids: ints(&inputs, "inputIds")?,
                    inputs_embeds: floats(&inputs, "inputsEmbeds")?,
                    query_embeds: floats(&inputs, "queryEmbeds")?,
                    attention_mask: ints(&inputs, "attentionMask")?,
                    position_ids: ints(&inputs, "positionIds")?,
                    past_key_values: self.past(&inputs)?,
                    vision_hidden_states: floats(&inputs, "visionHiddenStates")?,
                    repeat_time,
                    labels: ints(&inputs, "labels")?,
                    use_cache: flag(&inputs, "useCache"),
                    use_zero_attention_mask: flag(&inputs, "useZeroAttentionMask"),
                    output_attentions: flag(&inputs, "outputAttentions"),
                    output_cross_attentions: flag(&inputs, "outputCrossAttentions"),
                    output_hidden_states: flag(&inputs, "outputHiddenStates"),
                    output_logits: get(&inputs, "outputLogits").is_none_or(|v| v.is_truthy()),
                    output_last_hidden_state: flag(&inputs, "outputLastHiddenState"),
                })
                .await?;
            let past = match &outputs.past_key_values {
                Some(past) => past.to_arrays(&self.model).await?,
                None => Vec::new(),
            };
            Ok(outputs_to_js(&outputs, &past))
        };
        self.settled(run.await).await
    }

    /// InternViT's rows of a picture, as `forward` takes them in `visionHiddenStates`.
    #[wasm_bindgen(js_name = visionHiddenStates)]
    pub async fn vision_hidden_states(&self, image: JsValue) -> JsResult<JsValue> {
        let run = async { Ok(array_to_js(&self.vision_rows(&self.vision(&image).await?).await?)) };
        self.settled(run.await).await
    }

    /// Where the query tokens look: cross-attention's probabilities, the mean over heads, of layer `layer` (counted
    /// over the layers that cross-attend; below 0 for the last): `{ width, height, queries, layers, layer, values }`
    /// with values [queries, height, width]. The class row is left out.
    pub async fn attention(&self, image: JsValue, layer: i32) -> JsResult<JsValue> {
        let run = async {
            let vision = self.vision(&image).await?;
            let rows = self.vision_rows(&vision).await?;
            let outputs = self
                .model
                .forward(Inputs {
                    inputs_embeds: Some(self.model.query_tokens().await?),
                    vision_hidden_states: Some(rows),
                    use_zero_attention_mask: true,
                    output_cross_attentions: true,
                    ..Inputs::default()
                })
                .await?;
            let layers = outputs.cross_attentions.len();
            let layer = if layer < 0 { layers.wrapping_sub(1) } else { layer as usize };
            let Some(map) = outputs.cross_attentions.get(layer) else {
                return input_error(format!("layer {layer}: this model has {layers} layers that cross-attend"));
            };
            let [_, heads, queries, rows] = map.shape[..] else { unreachable!("cross-attentions have four axes") };
            let patch = self.model.config.vision.as_ref().map_or(1, |v| v.patch_size);
            let side = self.model.preprocessor.size() as usize / patch;
            let patches = side * side;
            let mut values = vec![0.0f32; queries * patches];
            for head in map.values.chunks(queries * rows) {
                for (row, out) in head.chunks(rows).zip(values.chunks_mut(patches)) {
                    out.iter_mut().zip(&row[rows - patches..]).for_each(|(o, p)| *o += p / heads as f32);
                }
            }
            Ok(object(&[
                ("width", size_to_js(side)),
                ("height", size_to_js(side)),
                ("queries", size_to_js(queries)),
                ("layers", size_to_js(layers)),
                ("layer", size_to_js(layer)),
                ("values", Float32Array::from(values.as_slice()).into()),
            ]))
        };
        self.settled(run.await).await
    }
}

impl WebModel {
    async fn settled(&self, result: Result<JsValue>) -> JsResult<JsValue> {
        settle(self.model.device(), result).await.map_err(throw)
    }

    /// `image` is `{ bytes }` of a PNG, JPEG or WebP file, or `{ width, height, rgba }`.
    async fn vision(&self, image: &JsValue) -> Result<Vision> {
        let picture = match get(image, "bytes").map(|v| v.dyn_into::<Uint8Array>()) {
            Some(Ok(bytes)) => decode("the picture", &bytes.to_vec(), true)?,
            _ => {
                let side = |key| whole(image, key, 0).map(|n| n as u32);
                let rgba = get(image, "rgba").and_then(|v| v.dyn_into::<Uint8Array>().ok());
                let Some(rgba) = rgba else { return input_error("this is no picture".into()) };
                Picture::from_rgba(side("width")?, side("height")?, &rgba.to_vec())?
            }
        };
        let values = self.model.preprocessor.pixel_values(&picture);
        let side = self.model.preprocessor.size() as usize;
        self.model.vision(&PixelValues { batch: 1, height: side, width: side, values }).await
    }

    fn past(&self, inputs: &JsValue) -> Result<Option<PastKeyValues>> {
        let Some(list) = get(inputs, "pastKeyValues") else { return Ok(None) };
        let mut layers = Vec::new();
        for (i, layer) in list.unchecked_into::<JsArray>().iter().enumerate() {
            let part = |key| {
                let missing = || Error::Input { reason: format!("pastKeyValues: layer {i} has no {key}") };
                floats(&layer, key)?.ok_or_else(missing)
            };
            layers.push((part("key")?, part("value")?));
        }
        PastKeyValues::from_arrays(&self.model, &layers).map(Some)
    }

    async fn vision_rows(&self, vision: &Vision) -> Result<Array<f32>> {
        let shape = [vision.images, vision.rows, vision.states.width()];
        Ok(Array::new(&shape, self.model.device().read_f32(vision.states).await?))
    }

    async fn embedding(&self, vision: &Vision, mode: Mode) -> Result<Vec<f32>> {
        let crossed = match mode {
            Mode::C => None,
            Mode::G => Some(self.model.cross_states(vision).await?),
        };
        self.model.embed_image(vision, crossed.as_ref(), mode).await
    }

    fn options(&self, from: &JsValue) -> Result<GenerateOptions> {
        let defaults = GenerateOptions::default();
        let sampling = match flag(from, "doSample") {
            false => None,
            true => Some(Sampling {
                temperature: number(from, "temperature", 1.0)?,
                top_k: whole(from, "topK", 50)?,
                top_p: number(from, "topP", 1.0)?,
                seed: whole(from, "seed", 0)? as u64,
            }),
        };
        let early_stopping = match get(from, "earlyStopping") {
            Some(v) if v.as_string().as_deref() == Some("never") => EarlyStopping::Never,
            Some(v) if v.is_truthy() => EarlyStopping::True,
            _ => defaults.early_stopping,
        };
        let options = GenerateOptions {
            max_new_tokens: whole(from, "maxNewTokens", defaults.max_new_tokens)?,
            min_new_tokens: whole(from, "minNewTokens", defaults.min_new_tokens)?,
            num_beams: whole(from, "numBeams", 1)?,
            length_penalty: number(from, "lengthPenalty", defaults.length_penalty)?,
            early_stopping,
            repetition_penalty: number(from, "repetitionPenalty", defaults.repetition_penalty)?,
            no_repeat_ngram_size: whole(from, "noRepeatNgramSize", 0)?,
            eos_token_ids: self.model.config.text.eos_token_ids.clone(),
            sampling,
            ..defaults
        };
        options.check()?;
        Ok(options)
    }

    async fn generate_from(
        &self,
        image: Option<&JsValue>,
        prompt: &[u32],
        options: &GenerateOptions,
        on_piece: &Function,
    ) -> Result<JsValue> {
        let crossed: Option<Crossed> = match image {
            Some(image) => {
                let vision = self.vision(image).await?;
                Some(self.model.cross_states(&vision).await?)
            }
            None => None,
        };
        let tokenizer = self.model.tokenizer().ok();
        let mut stream = tokenizer.map(|t| t.decode_stream());
        let say = |piece: &str, id: JsValue| goes_on(on_piece.call2(&JsValue::NULL, &piece.into(), &id));
        let generated = self
            .model
            .generate(crossed.as_ref(), &[prompt], options, &mut |token| match token {
                Some((_, id)) if !options.eos_token_ids.contains(&id) => {
                    let piece = stream.as_mut().map(|s| s.push(id)).unwrap_or_default();
                    say(&piece, id.into())
                }
                _ => say("", JsValue::NULL),
            })
            .await?;
        let best: &Generated = &generated[0][0];
        let ids: Vec<u32> = best.ids.iter().copied().filter(|id| !options.eos_token_ids.contains(id)).collect();
        let text = tokenizer.map(|t| t.decode(&ids)).unwrap_or_default();
        if options.num_beams > 1 {
            say(&text, JsValue::NULL);
        } else if let Some(rest) = stream.as_mut().map(|s| s.finish()).filter(|rest| !rest.is_empty()) {
            say(&rest, JsValue::NULL);
        }
        let ids: JsArray = ids.into_iter().map(JsValue::from).collect();
        Ok(object(&[
            ("text", text.into()),
            ("ids", ids.into()),
            ("score", f64::from(best.score).into()),
            ("tokens", (best.ids.len() as f64).into()),
        ]))
    }
}

fn image_mode(mode: &str) -> Result<Mode> {
    match mode {
        "c" => Ok(Mode::C),
        "g" => Ok(Mode::G),
        _ => input_error(format!("mode: expected c or g, found {:?}", printable(mode))),
    }
}

/// What the worker said to whether to go on: only false ends a call.
fn goes_on(answer: JsResult<JsValue>) -> bool {
    answer.ok().and_then(|v| v.as_bool()).unwrap_or(true)
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let powers: Vec<f32> = logits.iter().map(|l| (l - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn shape_of(key: &str, from: &JsValue, len: usize) -> Result<Vec<usize>> {
    let list = get(from, "shape").and_then(|v| v.dyn_into::<JsArray>().ok());
    let Some(list) = list else { return input_error(format!("{key}: expected {{ data, shape }}")) };
    let shape: Vec<usize> = list
        .iter()
        .map(|n| {
            size_of(&n).ok_or_else(|| Error::Input { reason: format!("{key}: a shape is a list of whole numbers") })
        })
        .collect::<Result<_>>()?;
    if shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b)) != Some(len) {
        return Err(Error::InputShape {
            what: key.into(),
            expected: format!("as many values as the shape {shape:?} has"),
            found: format!("{len} values"),
        });
    }
    Ok(shape)
}

fn int_values(key: &str, data: &JsValue) -> Result<Vec<i64>> {
    match data.dyn_ref::<BigInt64Array>() {
        Some(values) => Ok(values.to_vec()),
        None => input_error(format!("{key}: expected whole numbers")),
    }
}

fn ints(inputs: &JsValue, key: &str) -> Result<Option<Array<i64>>> {
    let Some(array) = get(inputs, key) else { return Ok(None) };
    let values = int_values(key, &get(&array, "data").unwrap_or(JsValue::UNDEFINED))?;
    Ok(Some(Array { shape: shape_of(key, &array, values.len())?, values }))
}

fn floats(inputs: &JsValue, key: &str) -> Result<Option<Array<f32>>> {
    let Some(array) = get(inputs, key) else { return Ok(None) };
    let Some(values) = get(&array, "data").and_then(|v| v.dyn_into::<Float32Array>().ok()) else {
        return input_error(format!("{key}: expected a Float32Array in data"));
    };
    let values = values.to_vec();
    Ok(Some(Array { shape: shape_of(key, &array, values.len())?, values }))
}

fn array_to_js(array: &Array<f32>) -> JsValue {
    let shape: JsArray = array.shape.iter().map(|&n| JsValue::from_f64(n as f64)).collect();
    object(&[("data", Float32Array::from(array.values.as_slice()).into()), ("shape", shape.into())])
}

fn outputs_to_js(outputs: &Outputs, past: &[(Array<f32>, Array<f32>)]) -> JsValue {
    let mut entries = Vec::new();
    for (key, array) in [("lastHiddenState", &outputs.last_hidden_state), ("logits", &outputs.logits)] {
        if let Some(array) = array {
            entries.push((key, array_to_js(array)));
        }
    }
    if let Some(loss) = outputs.loss {
        entries.push(("loss", f64::from(loss).into()));
    }
    for (key, arrays) in [
        ("hiddenStates", &outputs.hidden_states),
        ("attentions", &outputs.attentions),
        ("crossAttentions", &outputs.cross_attentions),
    ] {
        if !arrays.is_empty() {
            entries.push((key, arrays.iter().map(array_to_js).collect::<JsArray>().into()));
        }
    }
    if !past.is_empty() {
        let layer = |(k, v): &(Array<f32>, Array<f32>)| object(&[("key", array_to_js(k)), ("value", array_to_js(v))]);
        entries.push(("pastKeyValues", past.iter().map(layer).collect::<JsArray>().into()));
    }
    object(&entries)
}
