//! A checkpoint's files through two functions of the worker, which knows downloads and their cache.

use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::error::{Error, Result, printable};
use crate::files::source::{LocalFuture, Source, is_plain_name};
use crate::web::values::get;

/// `size(name)` resolves to a number or null, `read(name, offset, length)` to a Uint8Array.
pub struct Fetched {
    pub name: String,
    pub files: JsValue,
}

impl Fetched {
    async fn call(&self, function: &str, file: &str, args: &[JsValue]) -> Result<JsValue> {
        let failed = |e: JsValue| error_of(file, &e);
        let function: Function = Reflect::get(&self.files, &function.into()).map_err(failed)?.unchecked_into();
        let args: Array = args.iter().collect();
        let promise: Promise = function.apply(&self.files, &args).map_err(failed)?.unchecked_into();
        JsFuture::from(promise).await.map_err(failed)
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
