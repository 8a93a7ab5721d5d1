//! The demo model that is inside the binary: emoji-tiny, InternVL's architecture at toy size, trained to name emoji, with
//! its linear layers in 4 bits.

use crate::error::Result;
use crate::files::location::Location;
use crate::files::source::Memory;
use crate::model::builder::Builder;
use crate::model::front::Model;

/// Loads the demo model onto the best adapter.
///
/// # Errors
/// `E_ADAPTER` where there is none; the device's.
#[cfg(not(target_arch = "wasm32"))]
pub fn open() -> Result<Model> {
    builder().load()
}

/// Tells how to load the demo model.
pub fn builder<'a>() -> Builder<'a> {
    Builder::new(location())
}

/// The demo model's files.
pub fn location() -> Location {
    let files: [(&str, &'static [u8]); 5] = [
        ("config.json", include_bytes!("../../models/emoji-tiny-w4/config.json")),
        ("model.safetensors", include_bytes!("../../models/emoji-tiny-w4/model.safetensors")),
        ("tokenizer.model", include_bytes!("../../models/emoji-tiny-w4/tokenizer.model")),
        ("tokenizer_config.json", include_bytes!("../../models/emoji-tiny-w4/tokenizer_config.json")),
        ("preprocessor_config.json", include_bytes!("../../models/emoji-tiny-w4/preprocessor_config.json")),
    ];
    let all = files.into_iter().fold(Memory::new("the demo model"), |memory, (name, bytes)| memory.with(name, bytes));
    Location::Folder(Box::new(all))
}
