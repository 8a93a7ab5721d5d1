//! The demo model that is inside the binary: emoji-tiny, InternVL's architecture at toy size, trained to name emoji, with
//! its linear layers in 4 bits.

use crate::files::source::{Memory, Source};

/// The demo model's files.
pub fn source() -> Box<dyn Source> {
    let files: [(&str, &'static [u8]); 5] = [
        ("config.json", include_bytes!("../../models/emoji-tiny-w4/config.json")),
        ("model.safetensors", include_bytes!("../../models/emoji-tiny-w4/model.safetensors")),
        ("tokenizer.model", include_bytes!("../../models/emoji-tiny-w4/tokenizer.model")),
        ("tokenizer_config.json", include_bytes!("../../models/emoji-tiny-w4/tokenizer_config.json")),
        ("preprocessor_config.json", include_bytes!("../../models/emoji-tiny-w4/preprocessor_config.json")),
    ];
    let all = files.into_iter().fold(Memory::new("the demo model"), |memory, (name, bytes)| memory.with(name, bytes));
    Box::new(all)
}
