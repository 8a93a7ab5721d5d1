//! A checkpoint's files, and notes, through functions of the worker, which knows downloads and storage.

use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::error::{Error, Result, printable};
use crate::files::notes::Notes;
use crate::files::source::{LocalFuture, Source, is_plain_name};
use crate::web::values::get;

/// `size(name)` resolves to a number or null, `read(name, offset, length)` to a Uint8Array.
pub struct Fetched {
    pub name: String,
    pub files: JsValue,
}

impl Fetched {
    async fn call(&self, function: &str, file: &str, args: &[JsValue]) -> Result<JsValue> {
        call(&self.files, function, args).await.map_err(|e| error_of(file, &e))
    }
}

/// What a function of an object resolves to.
async fn call(of: &JsValue, function: &str, args: &[JsValue]) -> std::result::Result<JsValue, JsValue> {
    let function: Function = Reflect::get(of, &function.into())?.unchecked_into();
    let promise: Promise = function.apply(of, &args.iter().collect::<Array>())?.unchecked_into();
    JsFuture::from(promise).await
}

/// `note(name)` resolves to a Uint8Array or null, `keep(name, bytes)` to nothing.
pub struct Kept(pub JsValue);

impl Notes for Kept {
    fn read<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let bytes = call(&self.0, "note", &[name.into()]).await.ok()?;
            Some(bytes.dyn_into::<Uint8Array>().ok()?.to_vec())
        })
    }

    fn write<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            // What cannot be kept is found out again.
            let _ = call(&self.0, "keep", &[name.into(), Uint8Array::from(bytes).into()]).await;
        })
    }
}

/// An error that the worker's functions rejected with.
fn error_of(file: &str, error: &JsValue) -> Error {
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
