//! Values of fields.

use crate::error::printable;

/// A field's value, as far as any is used.
pub(super) enum Value {
    Whole(u64),
    Negative(i64),
    Number(f64),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<f32>),
    Wholes(Vec<i64>),
    /// A list or a long text that no one asks for.
    Other(&'static str),
}

impl Value {
    pub(super) fn kind(&self) -> String {
        match self {
            Value::Whole(n) => n.to_string(),
            Value::Negative(n) => n.to_string(),
            Value::Number(x) => x.to_string(),
            Value::Flag(b) => b.to_string(),
            Value::Text(t) => format!("the text {:?}", printable(t)),
            Value::Other(what) => (*what).into(),
            Value::Texts(_) | Value::Numbers(_) | Value::Wholes(_) => "a list".into(),
        }
    }
}
