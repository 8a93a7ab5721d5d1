//! What decoders make, and what they ask for before they make it.

use crate::error::{Error, Result};
use crate::image::picture::{MAX_PIXELS, fits};

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
        room(bytes).map(drop).ok_or_else(|| self.out_of_memory(bytes))
    }

    pub(super) fn out_of_memory(&self, asked: u64) -> Error {
        Error::HostMemory { what: self.0.into(), asked }
    }
}

/// An empty vector with room for `bytes`, where the computer has that much. Decoders end the program where it has not.
pub(super) fn room(bytes: u64) -> Option<Vec<u8>> {
    let mut room = Vec::new();
    room.try_reserve_exact(usize::try_from(bytes).ok()?).ok()?;
    Some(room)
}
