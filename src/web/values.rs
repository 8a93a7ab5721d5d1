//! Values on their way between JavaScript and the engine: arrays as `{ data, shape }`, pictures, `forward`'s arguments.

use js_sys::{Array as JsArray, BigInt64Array, Float32Array, Object, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;

use crate::device::Array;
use crate::error::{Error, Result};
use crate::image::Picture;
use crate::model::{ForwardInputs, ForwardOutputs};

/// A layer's keys and values.
pub type KeyValue = (Array<f32>, Array<f32>);

pub fn object(entries: &[(&str, JsValue)]) -> JsValue {
    let out = Object::new();
    for (key, value) in entries {
        // A plain object takes any key.
        let _ = Reflect::set(&out, &(*key).into(), value);
    }
    out.into()
}

/// A property that is there: neither undefined nor null.
pub fn get(from: &JsValue, key: &str) -> Option<JsValue> {
    Reflect::get(from, &key.into()).ok().filter(|v| !v.is_undefined() && !v.is_null())
}

pub fn input_error<T>(reason: String) -> Result<T> {
    Err(Error::Input { reason })
}

fn size_of(value: &JsValue) -> Option<usize> {
    value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n)).map(|n| n as usize)
}

pub fn size_to_js(size: usize) -> JsValue {
    JsValue::from_f64(size as f64)
}

/// A whole number of at least 0, where it is there.
pub fn whole(from: &JsValue, key: &str) -> Result<Option<usize>> {
    let Some(value) = get(from, key) else { return Ok(None) };
    match size_of(&value) {
        Some(n) => Ok(Some(n)),
        None => input_error(format!("{key}: expected a whole number of at least 0")),
    }
}

fn flag(from: &JsValue, key: &str) -> bool {
    get(from, key).is_some_and(|v| v.is_truthy())
}

pub fn text(from: &JsValue, key: &str) -> Result<Option<String>> {
    let Some(value) = get(from, key) else { return Ok(None) };
    match value.as_string() {
        Some(text) => Ok(Some(text)),
        None => input_error(format!("{key}: expected a string")),
    }
}

/// `{ side, rgb }`: a square that `picture_prepare` has cut out.
pub fn picture(image: &JsValue) -> Result<Picture> {
    let rgb = get(image, "rgb").and_then(|v| v.dyn_into::<Uint8Array>().ok());
    let (Some(rgb), Some(side)) = (rgb, whole(image, "side")?) else { return input_error("this is no picture".into()) };
    Picture::from_rgb(side as u32, side as u32, rgb.to_vec())
}

fn shape_of(key: &str, from: &JsValue, len: usize) -> Result<Vec<usize>> {
    let list = get(from, "shape").and_then(|v| v.dyn_into::<JsArray>().ok());
    let Some(list) = list else { return input_error(format!("{key}: expected {{ data, shape }}")) };
    let Some(shape) = list.iter().map(|n| size_of(&n)).collect::<Option<Vec<_>>>() else {
        return input_error(format!("{key}: a shape is a list of whole numbers"));
    };
    if shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b)) != Some(len) {
        return Err(Error::InputShape {
            what: key.into(),
            expected: format!("as many values as the shape {shape:?} has"),
            found: format!("{len} values"),
        });
    }
    Ok(shape)
}

/// Whole numbers of a BigInt64Array.
pub fn int_values(key: &str, data: &JsValue) -> Result<Vec<i64>> {
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

/// `forward`'s arguments but the cache.
pub fn forward_inputs(inputs: &JsValue) -> Result<ForwardInputs> {
    Ok(ForwardInputs {
        input_ids: ints(inputs, "inputIds")?,
        inputs_embeds: floats(inputs, "inputsEmbeds")?,
        query_embeds: floats(inputs, "queryEmbeds")?,
        attention_mask: ints(inputs, "attentionMask")?,
        position_ids: ints(inputs, "positionIds")?,
        past_key_values: None,
        vision_hidden_states: floats(inputs, "visionHiddenStates")?,
        repeat_time: whole(inputs, "repeatTime")?,
        labels: ints(inputs, "labels")?,
        use_cache: flag(inputs, "useCache"),
        use_zero_attention_mask: flag(inputs, "useZeroAttentionMask"),
        output_attentions: flag(inputs, "outputAttentions"),
        output_cross_attentions: flag(inputs, "outputCrossAttentions"),
        output_hidden_states: flag(inputs, "outputHiddenStates"),
        output_logits: get(inputs, "outputLogits").is_none_or(|v| v.is_truthy()),
        output_last_hidden_state: flag(inputs, "outputLastHiddenState"),
    })
}

/// A cache that came as a list of `{ key, value }`, one a layer.
pub fn key_values(list: &JsArray) -> Result<Vec<KeyValue>> {
    let layer = |(i, layer): (usize, JsValue)| {
        let part = |key| {
            let missing = || Error::Input { reason: format!("pastKeyValues: layer {i} has no {key}") };
            floats(&layer, key)?.ok_or_else(missing)
        };
        Ok((part("key")?, part("value")?))
    };
    list.iter().enumerate().map(layer).collect()
}

pub fn key_values_to_js(layers: &[KeyValue]) -> JsValue {
    let layer = |(k, v): &KeyValue| object(&[("key", array_to_js(k)), ("value", array_to_js(v))]);
    layers.iter().map(layer).collect::<JsArray>().into()
}

pub fn floats_to_js(values: &[f32]) -> JsValue {
    Float32Array::from(values).into()
}

pub fn array_to_js(array: &Array<f32>) -> JsValue {
    let shape: JsArray = array.shape.iter().map(|&n| size_to_js(n)).collect();
    object(&[("data", floats_to_js(&array.values)), ("shape", shape.into())])
}

/// What `forward` returned but the cache; `past_rows` are the rows of the cache that was kept.
pub fn outputs_to_js(outputs: &ForwardOutputs, past_rows: Option<usize>) -> JsValue {
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
    if let Some(rows) = past_rows {
        entries.push(("pastRows", size_to_js(rows)));
    }
    object(&entries)
}
