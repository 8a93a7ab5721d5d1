//! The fields of a file, by name.

use std::collections::HashMap;

use super::value::Value;
use crate::error::{Error, Result, printable};
use crate::files::json::config_error;

/// The fields of a file, by name.
pub(super) struct Fields<'a> {
    pub(super) file: &'a str,
    pub(super) values: HashMap<String, Value>,
}

impl Fields<'_> {
    pub(super) fn error(&self, key: &str, rule: impl Into<String>) -> Error {
        config_error(self.file, key.into(), rule.into())
    }

    pub(super) fn unexpected(&self, key: &str, expected: &str) -> Error {
        let found = self.values.get(key).map_or("nothing".into(), Value::kind);
        self.error(key, format!("expected {expected}, found {found}"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.unexpected(key, "a text")),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.values.get(key) {
            None => Ok(default),
            Some(Value::Flag(flag)) => Ok(*flag),
            Some(_) => Err(self.unexpected(key, "true or false")),
        }
    }

    /// An id below `limit`.
    pub(super) fn id(&self, key: &str, limit: usize) -> Result<Option<u32>> {
        match self.values.get(key) {
            None => Ok(None),
            // What converters write for "none".
            Some(Value::Negative(-1) | Value::Whole(0xffff_ffff)) => Ok(None),
            Some(Value::Whole(id)) if *id < limit as u64 => Ok(Some(*id as u32)),
            Some(_) => Err(self.unexpected(key, &format!("an id below {limit}"))),
        }
    }

    /// The value as config.json would have it.
    pub(super) fn json(&self, key: &str) -> Option<serde_json::Value> {
        Some(match self.values.get(key)? {
            Value::Whole(n) => (*n).into(),
            Value::Negative(n) => (*n).into(),
            Value::Number(x) => (*x).into(),
            Value::Flag(b) => (*b).into(),
            Value::Text(t) => printable(t).into(),
            _ => serde_json::Value::Array(Vec::new()),
        })
    }
}
