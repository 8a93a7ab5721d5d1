//! What decoders make, and what they ask for before they make it.

use crate::error::{Error, Result};
use crate::image::picture::{MAX_PIXELS, fits};
use crate::room::room;

/// What a decoder made of a file.
pub(super) struct Decoded {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Rows of 8-bit samples: grey, grey and alpha, RGB, or RGB and alpha.
    pub(super) samples: Vec<u8>,
    pub(super) channels: usize,
    pub(super) exif: Option<Vec<u8>>,
}

/// The name of a file, for what is said of it.
pub(super) struct Name<'a>(pub(super) &'a str);

impl Name<'_> {
    pub(super) fn fail(&self, reason: String) -> Error {
        Error::Image { file: self.0.into(), reason }
    }

    /// Fails where a picture of this size is not read, or the computer has not the `bytes` that decoding takes at most.
    pub(super) fn check(&self, (width, height): (u32, u32), bytes: u64) -> Result<()> {
        if !fits(width, height) {
            let expected = format!("expected at least 1 x 1 pixels and at most {MAX_PIXELS} in all");
            return Err(self.fail(format!("{expected}, found {width} x {height}")));
        }
        // Decoders do not ask.
        room::<u8>(self.0, usize::try_from(bytes).unwrap_or(usize::MAX)).map(drop)
    }
}
