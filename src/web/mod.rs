//! What the worker in `web/` calls: the model behind wasm-bindgen. Files come from two functions of the worker, which
//! knows downloads and their cache; numbers cross as typed arrays with shapes; errors as objects with a stable `code`.
//!
//! Only this folder names wasm-bindgen and js-sys.

mod files;
mod options;
mod pictures;
mod values;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;

use js_sys::{Array as JsArray, Function, Reflect};
use wasm_bindgen::prelude::*;

use crate::device::{Adapter, Device};
use crate::error::{Error, Result};
use crate::files::location::Location;
use crate::generate::check::check_ids;
use crate::model::{
    Builder, CAPTION_PROMPT, CheckReport, Generation, Model, PastKeyValues, Piece, Progress, Prompt, Recovered,
};
use crate::panics::in_words;
use crate::web::files::{Fetched, Kept};
use crate::web::options::{check, generate_options, in_camel_case, kv_cache};
use crate::web::values::{
    array_to_js, floats_to_js, forward_inputs, get, input_error, int_values, key_values, key_values_to_js, object,
    outputs_to_js, picture, size_to_js, text, whole,
};

/// Where the last panic's message is left for the worker, which sees only a trap.
const PANIC: &str = "qllamaPanic";

type JsResult<T> = std::result::Result<T, JsValue>;

#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| {
        let _ = Reflect::set(&js_sys::global(), &PANIC.into(), &in_words(info).into());
    }));
}

/// An error as the worker passes it on: `{ code, message }`.
fn throw(error: Error) -> JsValue {
    let message = match &error {
        Error::Input { reason } => in_camel_case(reason),
        _ => error.to_string(),
    };
    object(&[("code", error.code().into()), ("message", message.into())])
}

/// A loaded model.
#[wasm_bindgen(js_name = Model)]
pub struct WebModel {
    model: Model,
    /// The short side that pictures are resized to, and the side of the square in their middle.
    sides: [u32; 2],
    /// The caches that pages hold handles of, by their numbers.
    pasts: RefCell<HashMap<usize, PastKeyValues>>,
}

/// Opens the browser's adapter and loads a checkpoint. `files` as in [`Fetched`] and [`Kept`]; `gguf` is the name of the GGUF file
/// there, or none for a folder of safetensors; `on_progress(bytes, total)` is told of weights that reached the GPU;
/// `options` are `memoryBudget` in bytes, `kvCache`, `check` and `recover`, see [`Builder`]; `on_recovered({ reason, adapter, seconds })`
/// is told of each recovery.
#[wasm_bindgen]
pub async fn load(
    name: String,
    files: JsValue,
    gguf: Option<String>,
    on_progress: Function,
    options: JsValue,
    on_recovered: Function,
) -> JsResult<WebModel> {
    let model = async {
        let (kv_cache, check) = (kv_cache(&options)?, check(&options)?);
        let notes = Kept(files.clone());
        let source = Box::new(Fetched { name, files });
        let location = match gguf {
            Some(file) => Location::Gguf(source, file),
            None => Location::Folder(source),
        };
        // Before the files: where there is no adapter nothing is to be fetched.
        let device = Device::open(&Adapter::Best).await?;
        let mut builder = Builder::new(location).device(&device).on_progress(|Progress { bytes, total }| {
            let _ = on_progress.call2(&JsValue::NULL, &(bytes as f64).into(), &(total as f64).into());
        });
        builder = builder.check(check).notes(notes);
        builder = builder.recover(get(&options, "recover").and_then(|v| v.as_bool()) != Some(false));
        builder = builder.on_recovered(move |Recovered { reason, adapter, seconds, .. }| {
            let told =
                object(&[("reason", reason.into()), ("adapter", adapter.into()), ("seconds", (*seconds).into())]);
            let _ = on_recovered.call1(&JsValue::NULL, &told);
        });
        if let Some(bytes) = get(&options, "memoryBudget").and_then(|v| v.as_f64()) {
            builder = builder.memory_budget(bytes as u64);
        }
        if let Some(kv_cache) = kv_cache {
            builder = builder.kv_cache(kv_cache);
        }
        builder.load_async().await
    };
    let mut model = model.await.map_err(throw)?;
    let sides = [model.preprocessor().short_side(), model.preprocessor().size()];
    model.take_squares();
    Ok(WebModel { model, sides, pasts: RefCell::default() })
}

/// What the worker said to whether to go on: only false ends a call.
fn flow(answer: JsResult<JsValue>) -> ControlFlow<()> {
    match answer.ok().and_then(|v| v.as_bool()) {
        Some(false) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

#[wasm_bindgen(js_class = Model)]
impl WebModel {
    /// What is loaded, and what it runs on.
    pub fn info(&self) -> JsValue {
        let (config, device) = (self.model.config(), self.model.device_info());
        let (held, peak) = self.model.memory();
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
            ("imageSize", size_to_js(self.model.preprocessor().size() as usize)),
            ("layers", size_to_js(text.num_hidden_layers)),
            ("crossAttentionLayers", size_to_js(text.cross_attention_layers())),
            ("hiddenSize", size_to_js(text.hidden_size)),
            ("vocabSize", size_to_js(text.vocab_size)),
            ("queryTokens", size_to_js(text.num_query_token)),
            ("maxPositions", size_to_js(text.max_position_embeddings)),
            ("check", check_to_js(&self.model.check_report())),
        ])
    }

    /// What `picture_prepare` is told of the model: the short side that pictures are resized to, and the square's.
    pub fn sides(&self) -> Vec<u32> {
        self.sides.to_vec()
    }

    /// Continues `start`'s `prompt` or `inputIds`, with its `image` or without one; with `caption`, the prompt for captions
    /// where there is none. `on_piece(text, sequence, id)` is told of each token, with what became final of the text; where
    /// it returns false, generation stops with `E_ABORTED`. Resolves to `[{ text, ids, score, tokens }]`, best first; `ids`
    /// are without the end id, which `tokens` counts.
    pub async fn generate(
        &self,
        start: JsValue,
        options: JsValue,
        caption: bool,
        on_piece: Function,
    ) -> JsResult<JsValue> {
        let run = async {
            let options = generate_options(&options)?;
            let prompt = text(&start, "prompt")?.or_else(|| caption.then(|| CAPTION_PROMPT.into()));
            let ids = match get(&start, "inputIds") {
                Some(ids) => Some(check_ids(&self.model.config().text, &int_values("inputIds", &ids)?)?),
                None => None,
            };
            let image = get(&start, "image").map(|image| picture(&image)).transpose()?;
            let prompt = Prompt { picture: image.as_ref(), text: prompt.as_deref(), ids: ids.as_deref() };
            let on_piece = &mut |Piece { sequence, text, id }: Piece<'_>| {
                flow(on_piece.call3(&JsValue::NULL, &text.into(), &size_to_js(sequence), &id.into()))
            };
            let all = self.model.generate_with_async(&prompt, &options, on_piece).await?;
            Ok(all.into_iter().map(generation_to_js).collect::<JsArray>().into())
        };
        run.await.map_err(throw)
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
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let matcher = self.model.matcher_async(&texts, mode.parse()?).await?;
            let table = JsArray::new();
            for image in &images {
                if flow(on_step.call0(&JsValue::NULL)).is_break() {
                    return Err(Error::Aborted);
                }
                let row = matcher.row_async(&picture(image)?).await?;
                table.push(&row.into_iter().map(|p| JsValue::from_f64(p.into())).collect::<JsArray>());
            }
            Ok(table.into())
        };
        run.await.map_err(throw)
    }

    /// A picture's embedding, not normalised; `mode` is `c` or `g`.
    #[wasm_bindgen(js_name = embedImage)]
    pub async fn embed_image(&self, image: JsValue, mode: String) -> JsResult<JsValue> {
        let run = async {
            let embedding = self.model.embed_picture_async(&picture(&image)?, mode.parse()?).await?;
            Ok(floats_to_js(&embedding))
        };
        run.await.map_err(throw)
    }

    /// A text's embedding, not normalised, with the prefix that matching uses.
    #[wasm_bindgen(js_name = embedText)]
    pub async fn embed_text(&self, text: String) -> JsResult<JsValue> {
        let run = async { Ok(floats_to_js(&self.model.embed_text_async(&text).await?)) };
        run.await.map_err(throw)
    }

    /// `LlamaForCausalLM.forward`: arrays are `{ data, shape }`, floats in a Float32Array and whole numbers in a
    /// BigInt64Array. `pastKeyValues` is a list of `{ key, value }`, one a layer, or `{ id, rows }`: the first `rows` rows of
    /// the cache kept as `id`. With `useCache` the cache is kept as `keepAs`, and `pastRows` tells its rows; without it, and
    /// where the call fails, a kept cache stays as it was.
    pub async fn forward(&self, inputs: JsValue) -> JsResult<JsValue> {
        let run = async {
            let keep_as = whole(&inputs, "keepAs")?.unwrap_or(0);
            let mut arguments = forward_inputs(&inputs)?;
            let mut kept = None;
            if let Some(past) = get(&inputs, "pastKeyValues") {
                arguments.past_key_values = Some(match past.dyn_ref::<JsArray>() {
                    Some(layers) => PastKeyValues::from_arrays(&self.model, &key_values(layers)?)?,
                    None => {
                        let (id, past) = self.take_past(&past)?;
                        kept = Some(id);
                        past
                    }
                });
            }
            let outputs = self.model.forward_async(&mut arguments).await;
            if let (Some(id), Some(past)) = (kept, arguments.past_key_values) {
                self.pasts.borrow_mut().insert(id, past);
            }
            let mut outputs = outputs?;
            let past = outputs.past_key_values.take();
            let rows = past.as_ref().map(PastKeyValues::len);
            self.pasts.borrow_mut().extend(past.map(|past| (keep_as, past)));
            Ok(outputs_to_js(&outputs, rows))
        };
        run.await.map_err(throw)
    }

    /// A kept cache `{ id, rows }` as a list of `{ key, value }`.
    #[wasm_bindgen(js_name = pastToArrays)]
    pub async fn past_to_arrays(&self, past: JsValue) -> JsResult<JsValue> {
        let run = async {
            let (id, mut past) = self.take_past(&past)?;
            let arrays = past.to_arrays_async(&self.model).await;
            self.pasts.borrow_mut().insert(id, past);
            Ok(key_values_to_js(&arrays?))
        };
        run.await.map_err(throw)
    }

    /// Frees a kept cache, where it is there.
    #[wasm_bindgen(js_name = freePast)]
    pub fn free_past(&self, id: usize) {
        self.pasts.borrow_mut().remove(&id);
    }

    /// InternViT's rows of a picture, as `forward` takes them in `visionHiddenStates`.
    #[wasm_bindgen(js_name = visionHiddenStates)]
    pub async fn vision_hidden_states(&self, image: JsValue) -> JsResult<JsValue> {
        let run = async {
            let pixels = self.model.pixel_values(&picture(&image)?);
            let rows =
                self.model.run(async |network| network.vision_rows(&network.vision(&pixels).await?).await).await?;
            Ok(array_to_js(&rows))
        };
        run.await.map_err(throw)
    }

    /// Where the query tokens look: [`Model::attention_map_async`] of layer `layer`, below 0 for the last.
    #[wasm_bindgen(js_name = attentionMap)]
    pub async fn attention_map(&self, image: JsValue, layer: i32) -> JsResult<JsValue> {
        let run = async {
            let map = self.model.attention_map_async(&picture(&image)?, usize::try_from(layer).ok()).await?;
            let [queries, height, width] = map.per_query.shape[..] else { unreachable!("a map has three axes") };
            Ok(object(&[
                ("width", size_to_js(width)),
                ("height", size_to_js(height)),
                ("queries", size_to_js(queries)),
                ("layers", size_to_js(map.layers)),
                ("layer", size_to_js(map.layer)),
                ("values", floats_to_js(&map.mean())),
                ("perQuery", floats_to_js(&map.per_query.values)),
            ]))
        };
        run.await.map_err(throw)
    }
}

impl WebModel {
    /// The kept cache `{ id, rows }`, out of the kept ones. Rows that a call left there whose result nobody took go.
    fn take_past(&self, past: &JsValue) -> Result<(usize, PastKeyValues)> {
        let (Some(id), Some(rows)) = (whole(past, "id")?, whole(past, "rows")?) else {
            return input_error("pastKeyValues: expected what forward returned".into());
        };
        let Some(mut past) = self.pasts.borrow_mut().remove(&id) else {
            return Err(Error::State { reason: "pastKeyValues: this cache is not there any more".into() });
        };
        past.truncate(rows);
        Ok((id, past))
    }
}

fn check_to_js(report: &CheckReport) -> JsValue {
    let wrong =
        report.wrong.iter().map(|(kernel, fault)| object(&[("kernel", kernel.into()), ("fault", fault.into())]));
    object(&[
        ("tried", size_to_js(report.tried.len())),
        ("wrong", wrong.collect::<JsArray>().into()),
        ("text", report.text().map_or(JsValue::NULL, JsValue::from)),
    ])
}

fn generation_to_js(generation: Generation) -> JsValue {
    let Generation { text, ids, score, end_id } = generation;
    let tokens = ids.len() + usize::from(end_id.is_some());
    object(&[
        ("text", text.unwrap_or_default().into()),
        ("ids", ids.into_iter().map(JsValue::from).collect::<JsArray>().into()),
        ("score", f64::from(score).into()),
        ("tokens", size_to_js(tokens)),
    ])
}
