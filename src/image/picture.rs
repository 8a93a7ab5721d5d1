//! Pictures: rows of 8-bit RGB.

use crate::error::{Error, Result};

/// Most pixels that a picture may have (2^26, 8192 x 8192), so that a small file cannot ask for all memory.
pub const MAX_PIXELS: u64 = 1 << 26;

/// Longest side that a picture may have, in pixels.
pub const MAX_SIDE: u32 = 1 << 20;

/// A picture: 8-bit RGB, row by row from the top, at least one pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

impl Picture {
    /// A picture of raw pixels, three bytes each (`width * height * 3` in all), sizes in pixels.
    ///
    /// # Errors
    /// [`Error::InputShape`] when a side is 0, the picture is too large or `rgb` has another length.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Picture> {
        check_raw(width, height, 3, rgb.len())?;
        Ok(Picture { width, height, rgb })
    }

    /// A picture of raw pixels, four bytes each (`width * height * 4` in all, as a canvas gives them), sizes in pixels.
    /// Alpha is dropped, not blended, as the published preprocessing does.
    ///
    /// # Errors
    /// [`Error::InputShape`] when a side is 0, the picture is too large or `rgba` has another length.
    pub fn from_rgba(width: u32, height: u32, rgba: &[u8]) -> Result<Picture> {
        check_raw(width, height, 4, rgba.len())?;
        let rgb = rgba.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect();
        Ok(Picture { width, height, rgb })
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, [height, width, 3].
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

fn check_raw(width: u32, height: u32, channels: u64, found: usize) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    let what = "picture".to_string();
    if !fits(width, height) {
        let expected = format!("at least 1 x 1 pixels and at most {MAX_PIXELS} in all, sides up to {MAX_SIDE}");
        return Err(Error::InputShape { what, expected, found: format!("{width} x {height}") });
    }
    if found as u64 != pixels * channels {
        let expected = format!("{} bytes for {width} x {height} pixels", pixels * channels);
        return Err(Error::InputShape { what, expected, found: found.to_string() });
    }
    Ok(())
}

pub(super) fn fits(width: u32, height: u32) -> bool {
    let pixels = u64::from(width) * u64::from(height);
    (1..=MAX_PIXELS).contains(&pixels) && width <= MAX_SIDE && height <= MAX_SIDE
}
