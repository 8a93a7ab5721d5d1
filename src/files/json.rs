//! JSON files read strictly: an object that has a key twice is an error, and every error carries a JSON pointer.

use crate::error::{Error, Result, printable};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// A JSON value that keeps every key of an object, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// A whole number from 0 to 2^64 - 1, written without point or exponent.
    Whole(u64),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// What a message calls it.
    pub(crate) fn kind(&self) -> String {
        match self {
            Json::Null => "null".into(),
            Json::Bool(b) => b.to_string(),
            Json::Whole(n) => n.to_string(),
            Json::Number(x) => x.to_string(),
            Json::Text(t) => format!("the text {:?}", printable(t)),
            Json::List(_) => "a list".into(),
            Json::Object(_) => "an object".into(),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Json, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> std::result::Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, b: bool) -> std::result::Result<Json, E> {
                Ok(Json::Bool(b))
            }
            fn visit_u64<E>(self, n: u64) -> std::result::Result<Json, E> {
                Ok(Json::Whole(n))
            }
            fn visit_i64<E>(self, n: i64) -> std::result::Result<Json, E> {
                Ok(Json::Number(n as f64))
            }
            fn visit_f64<E>(self, x: f64) -> std::result::Result<Json, E> {
                Ok(Json::Number(x))
            }
            fn visit_str<E>(self, t: &str) -> std::result::Result<Json, E> {
                Ok(Json::Text(t.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Object(fields))
            }
        }
        d.deserialize_any(Values)
    }
}

/// Parses a whole file.
///
/// # Errors
/// `E_HEADER` with the byte offset when it is not UTF-8 or not JSON.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Json> {
    let header_error = |offset: usize, reason| Error::Header { file: file.into(), offset: offset as u64, reason };
    let text = std::str::from_utf8(bytes).map_err(|e| header_error(e.valid_up_to(), "not UTF-8".into()))?;
    serde_json::from_str(text).map_err(|e| header_error(json_offset(bytes, &e), json_reason(&e)))
}

/// The pointer of the first key that an object has twice.
pub(crate) fn duplicate(json: &Json) -> Option<String> {
    match json {
        Json::List(list) => {
            list.iter().enumerate().find_map(|(i, value)| duplicate(value).map(|inner| format!("/{i}{inner}")))
        }
        Json::Object(fields) => {
            let mut keys = HashSet::new();
            fields.iter().find_map(|(key, value)| {
                if !keys.insert(key) {
                    return Some(pointer("", key));
                }
                duplicate(value).map(|inner| pointer("", key) + &inner)
            })
        }
        _ => None,
    }
}

/// The JSON pointer of the field `key` in the object at `parent`.
pub(crate) fn pointer(parent: &str, key: &str) -> String {
    format!("{parent}/{}", printable(&key.replace('~', "~0").replace('/', "~1")))
}

/// An object of a file with its place, for reading fields one by one. All errors are `E_CONFIG`.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    at: &'a str,
    fields: &'a [(String, Json)],
}

impl<'a> Fields<'a> {
    /// The object `json` that stands at `at`.
    pub(crate) fn of(file: &'a str, at: &'a str, json: &'a Json) -> Result<Fields<'a>> {
        match json {
            Json::Object(fields) => Ok(Fields { file, at, fields }),
            other => Err(config_error(file, at.into(), format!("expected an object, found {}", other.kind()))),
        }
    }

    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    pub(crate) fn all(&self) -> &'a [(String, Json)] {
        self.fields
    }

    /// The field, unless it is absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Json> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// The field, unless it is absent or null.
    pub(crate) fn given(&self, key: &str) -> Option<&'a Json> {
        self.get(key).filter(|value| **value != Json::Null)
    }

    pub(crate) fn pointer(&self, key: &str) -> String {
        pointer(self.at, key)
    }

    /// The error that the field `key` breaks `rule`.
    pub(crate) fn error(&self, key: &str, rule: impl Into<String>) -> Error {
        config_error(self.file, self.pointer(key), rule.into())
    }

    /// The error that `key` is something else than `expected`.
    pub(crate) fn unexpected(&self, key: &str, expected: &str) -> Error {
        let found = self.get(key).map_or("nothing".into(), Json::kind);
        self.error(key, format!("expected {expected}, found {found}"))
    }

    /// A whole number from `min` to `max`, or `default` where the field is absent (no default: an error).
    pub(crate) fn whole(&self, key: &str, min: usize, max: usize, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (Some(Json::Whole(n)), _) if (min as u64..=max as u64).contains(n) => Ok(*n as usize),
            _ => Err(self.unexpected(key, &format!("a whole number from {min} to {max}"))),
        }
    }

    /// As `whole`, with null the same as absent.
    pub(crate) fn whole_or_null(&self, key: &str, min: usize, max: usize) -> Result<Option<usize>> {
        self.given(key).map(|_| self.whole(key, min, max, None)).transpose()
    }

    /// A number above zero that is finite and above zero in f32 too.
    pub(crate) fn positive(&self, key: &str, default: Option<f32>) -> Result<f32> {
        let number = match (self.get(key), default) {
            (None, Some(default)) => return Ok(default),
            (Some(Json::Whole(n)), _) => *n as f32,
            (Some(Json::Number(x)), _) => *x as f32,
            _ => f32::NAN,
        };
        if number > 0.0 && number.is_finite() {
            return Ok(number);
        }
        Err(self.unexpected(key, "a number above 0 within the range of f32"))
    }

    /// True or false, or `default` where the field is absent.
    pub(crate) fn flag(&self, key: &str, default: Option<bool>) -> Result<bool> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (Some(Json::Bool(b)), _) => Ok(*b),
            _ => Err(self.unexpected(key, "true or false")),
        }
    }

    /// One of `allowed`; absent or null is the first of them.
    pub(crate) fn word(&self, key: &str, allowed: &[&'static str]) -> Result<&'static str> {
        let word = match self.given(key) {
            None => allowed.first(),
            Some(Json::Text(t)) => allowed.iter().find(|a| *a == t),
            Some(_) => None,
        };
        word.copied().ok_or_else(|| self.unexpected(key, &format!("one of {}", allowed.join(", "))))
    }

    /// A list of texts; absent or null is an empty one.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&'a str>> {
        let unexpected = || self.unexpected(key, "a list of texts");
        match self.given(key) {
            None => Ok(Vec::new()),
            Some(Json::List(list)) => list
                .iter()
                .map(|item| if let Json::Text(t) = item { Ok(t.as_str()) } else { Err(unexpected()) })
                .collect(),
            Some(_) => Err(unexpected()),
        }
    }

    /// Fails unless the field is absent, null, false, 0, or an empty list or object: a feature that is not supported.
    pub(crate) fn unsupported(&self, key: &str, why: &str) -> Result<()> {
        match self.given(key) {
            None | Some(Json::Bool(false) | Json::Whole(0)) => Ok(()),
            Some(Json::List(l)) if l.is_empty() => Ok(()),
            Some(Json::Object(o)) if o.is_empty() => Ok(()),
            Some(found) => Err(self.error(key, format!("{why} (found {})", found.kind()))),
        }
    }
}

/// `E_CONFIG` for the place `pointer` of `file`; an empty pointer is the whole file.
pub(crate) fn config_error(file: &str, pointer: String, rule: String) -> Error {
    let pointer = if pointer.is_empty() { "the whole file".into() } else { pointer };
    Error::Config { file: file.into(), pointer, rule }
}

/// The place of a JSON error, in bytes from the start.
pub(crate) fn json_offset(json: &[u8], error: &serde_json::Error) -> usize {
    let newlines = json.iter().enumerate().filter(|(_, c)| **c == b'\n');
    let line_start = match error.line() {
        0 | 1 => 0,
        line => newlines.map(|(at, _)| at + 1).nth(line - 2).unwrap_or(0),
    };
    (line_start + error.column().saturating_sub(1)).min(json.len())
}

/// What is wrong, without serde_json's "at line 1 column 2".
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    printable(text.rsplit_once(" at line ").map_or(&text[..], |(reason, _)| reason))
}
