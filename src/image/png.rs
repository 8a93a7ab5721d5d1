//! PNG, by the png crate.

use std::io::Cursor;

use ::png::{Decoder, DecodingError, Limits, Transformations};

use crate::error::Result;
use crate::image::decoded::{Decoded, Name};
use crate::room::zeros;

/// Bytes that chunks beside the pixels may take.
const CHUNK_BYTES: usize = 64 << 20;

pub(super) fn decode(name: &Name<'_>, bytes: &[u8]) -> Result<Decoded> {
    let whole = |e: DecodingError| name.fail(format!("expected a whole Png picture: {e}"));
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: CHUNK_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // At most 8 bits a channel and 4 channels: of 16 bits the upper 8, as Pillow has it for colours. (Of 16-bit grey Pillow
    // makes white wherever a pixel is above 255 of 65535, which the format does not mean.)
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let header = decoder.read_header_info().map_err(whole)?;
    let (width, height) = (header.width, header.height);
    // The pixels of 4 channels; RGB of grey, or of what is turned.
    let pixels = u64::from(width) * u64::from(height);
    name.check((width, height), pixels.saturating_mul(4 + 3) + rows(width) + bytes.len() as u64)?;
    let mut reader = decoder.read_info().map_err(whole)?;
    let size = reader.output_buffer_size().ok_or_else(|| whole(DecodingError::LimitsExceeded))?;
    let mut samples = zeros(name.0, size)?;
    let frame = reader.next_frame(&mut samples).map_err(whole)?;
    if (frame.width, frame.height) != (width, height) {
        let found = format!("its first frame has {} x {}", frame.width, frame.height);
        return Err(name.fail(format!("expected {width} x {height} pixels; {found}")));
    }
    // EXIF data may stand behind the pixels; whether the rest is whole does not matter any more.
    let _ = reader.finish();
    let exif = reader.info().exif_metadata.as_ref().map(|exif| exif.to_vec());
    Ok(Decoded { width, height, samples, channels: frame.color_type.samples(), exif })
}

/// What the decoder keeps of rows of 4 channels of 16 bits, and besides.
fn rows(width: u32) -> u64 {
    32 * u64::from(width) + (1 << 20)
}
