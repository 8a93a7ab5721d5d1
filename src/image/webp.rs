//! WebP, by the image-webp crate; of what moves, the first frame.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use crate::error::Result;
use crate::image::decoded::{Decoded, Name};
use crate::room::zeros;

pub(super) fn decode(name: &Name<'_>, bytes: &[u8]) -> Result<Decoded> {
    let whole = |e: DecodingError| name.fail(format!("expected a whole WebP picture: {e}"));
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(whole)?;
    // A chunk may say any length of itself.
    decoder.set_memory_limit(bytes.len());
    let (width, height) = decoder.dimensions();
    // The pixels, and at once with them a frame and the canvas that it is put on, or a frame and its alpha, each of
    // 4 channels; less than that for what is turned. Tables of lossless files are some times as large as what they are made of.
    let pixels = u64::from(width) * u64::from(height);
    name.check((width, height), pixels.saturating_mul(4 * 4) + 16 * bytes.len() as u64 + (1 << 20))?;
    let size = decoder.output_buffer_size().ok_or_else(|| whole(DecodingError::ImageTooLarge))?;
    let mut samples = zeros(name.0, size)?;
    decoder.read_image(&mut samples).map_err(whole)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    // Broken EXIF data say nothing about the picture itself.
    let exif = decoder.exif_metadata().unwrap_or(None);
    Ok(Decoded { width, height, samples, channels, exif })
}
