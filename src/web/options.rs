//! The options of generation as JavaScript gives them: the library's list, with its names in camel case.

use js_sys::{Array, BigInt, Reflect};
use wasm_bindgen::prelude::*;

use crate::error::{Error, Result, printable};
use crate::generate::options::{GenerateOptions, KvCacheType, OptionField, Takes};
use crate::model::Check;
use crate::web::values::{get, input_error};

/// The names that [`generate_options`] takes; a test holds the TypeScript declarations to them.
#[wasm_bindgen(js_name = optionNames)]
pub fn option_names() -> Vec<String> {
    GenerateOptions::FIELDS.iter().map(|field| camel_case(field.name)).collect()
}

/// Options out of an object; what is null or undefined there was not given.
///
/// # Errors
/// `E_INPUT` for a property that is no option, and those of [`GenerateOptions::parse`].
pub fn generate_options(from: &JsValue) -> Result<GenerateOptions> {
    let mut given = Vec::new();
    for key in Reflect::own_keys(from).unwrap_or_default() {
        let key = key.as_string().unwrap_or_default();
        let Some(value) = get(from, &key) else { continue };
        let Some(field) = GenerateOptions::FIELDS.iter().find(|field| camel_case(field.name) == key) else {
            return input_error(format!("{:?} is no option of generation", printable(&key)));
        };
        given.push((field.name, in_words(field, &value)?));
    }
    GenerateOptions::parse(given.iter().map(|(name, value)| (*name, value.as_str())))
}

/// The storage of keys and values that `kvCache` names, where it is there.
///
/// # Errors
/// `E_INPUT` for another word.
pub fn kv_cache(from: &JsValue) -> Result<Option<KvCacheType>> {
    let word = get(from, "kvCache").map(|value| value.as_string().unwrap_or_default());
    Ok(GenerateOptions::parse(word.as_deref().map(|word| ("kv_cache", word)))?.kv_cache)
}

/// Whether the GPU is checked, as `check` says: `on` where it says nothing.
///
/// # Errors
/// `E_INPUT` for another word.
pub fn check(from: &JsValue) -> Result<Check> {
    match get(from, "check").map(|value| value.as_string().unwrap_or_default()).as_deref() {
        None | Some("on") => Ok(Check::On),
        Some("off") => Ok(Check::Off),
        Some("again") => Ok(Check::Again),
        Some(_) => input_error("check: expected \"on\", \"off\" or \"again\"".into()),
    }
}

/// A message with the names of options as JavaScript writes them.
pub fn in_camel_case(message: &str) -> String {
    GenerateOptions::FIELDS.iter().fold(message.into(), |text, field| text.replace(field.name, &camel_case(field.name)))
}

/// `num_beams` to `numBeams`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_string();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

/// A value in the words that [`GenerateOptions::parse`] takes.
fn in_words(field: &OptionField, value: &JsValue) -> Result<String> {
    let number = |value: &JsValue| match value.dyn_ref::<BigInt>() {
        Some(big) => big.to_string(10).ok().map(String::from),
        // Zero has a sign, which whole numbers have not.
        None => value.as_f64().map(|n| (n + 0.0).to_string()),
    };
    let flag = |value: &JsValue| value.as_bool().map(|flag| flag.to_string());
    let (words, expected) = match field.takes {
        Takes::Whole | Takes::Number => (number(value), "a number"),
        Takes::Flag => (flag(value), "true or false"),
        Takes::OneOf(_) => (flag(value).or_else(|| value.as_string()), "a word"),
        Takes::Ids => {
            let ids = match value.dyn_ref::<Array>() {
                Some(list) => list.iter().map(|id| number(&id)).collect::<Option<Vec<_>>>().map(|ids| ids.join(",")),
                None => number(value),
            };
            (ids, "a number or a list of numbers")
        }
    };
    words.ok_or_else(|| Error::Input { reason: format!("{}: expected {expected}", field.name) })
}
