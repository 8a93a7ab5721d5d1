//! JPEG, by jpeg-decoder: the image crate's own decoder rounds chroma upwards twice, which moves the mean of
//! `pixel_values` by 0.007 from libjpeg's; this one stays within 0.002.

use jpeg_decoder::PixelFormat;

use crate::error::Result;
use crate::image::decoded::{Decoded, Name};
use crate::image::picture::MAX_PIXELS;

pub(super) fn decode(name: &Name<'_>, bytes: &[u8]) -> Result<Decoded> {
    let whole = |reason: &dyn std::fmt::Display| name.fail(format!("expected a whole Jpeg picture: {reason}"));
    if let Some(fault) = fault(bytes) {
        return Err(whole(&fault));
    }
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(MAX_PIXELS as usize * 4);
    decoder.read_info().map_err(|e| whole(&e))?;
    let info = decoder.info().ok_or_else(|| whole(&"its header is missing"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    name.check((width, height), memory(width, height, info.pixel_format.pixel_bytes()) + bytes.len() as u64)?;
    let mut samples = decoder.decode().map_err(|e| whole(&e))?;
    let channels = match info.pixel_format {
        PixelFormat::L8 => 1,
        PixelFormat::RGB24 => 3,
        PixelFormat::L16 => return Err(name.fail("expected 8 bits a channel, found 16".into())),
        // Ink to light without a colour profile, as Pillow does.
        PixelFormat::CMYK32 => {
            let light = |ink: u8, key: u8| (u32::from(255 - ink) * u32::from(255 - key) / 255) as u8;
            for [c, m, y, k] in samples.as_chunks_mut::<4>().0 {
                (*c, *m, *y) = (light(*c, *k), light(*m, *k), light(*y, *k));
            }
            4
        }
    };
    Ok(Decoded { width, height, samples, channels, exif: decoder.exif_data().map(<[u8]>::to_vec) })
}

/// Bytes that decoding takes at most: of each component the coefficients of a progressive file (16 bits) and the plane, in
/// whole blocks of 32 pixels; the pixels, and RGB of grey or of what is turned.
fn memory(width: u32, height: u32, components: usize) -> u64 {
    let padded = u64::from(width.next_multiple_of(32)) * u64::from(height.next_multiple_of(32));
    let pixels = u64::from(width) * u64::from(height);
    components as u64 * (3 * padded + pixels) + 3 * pixels + (1 << 20)
}

/// Most passes over the pixels that a file may make: progressive ones make about ten, and each takes time whatever it brings.
const MAX_SCANS: usize = 100;

/// What is wrong with a JPEG file, where the decoder would not say: it fills what a cut file lacks with grey, goes over the
/// pixels as often as a file says, and panics on numbers of components that are no kind of colour.
fn fault(bytes: &[u8]) -> Option<&'static str> {
    let (mut at, mut scans) = (2, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xFF)) {
        at += found + 1;
        match bytes.get(at) {
            Some(0xD9) => return None,
            // Padding, and what may stand inside the coded pixels: an escaped 0xFF, restart marks, markers without a
            // length.
            Some(0xFF) => {}
            Some(0x00 | 0x01 | 0xD0..=0xD8) => at += 1,
            // A segment, with a length that counts itself; an embedded thumbnail's end is inside one.
            Some(marker) => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { break };
                let frame = matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC);
                if frame && !matches!((bytes.get(at + 3), bytes.get(at + 8)), (Some(8), Some(1 | 3 | 4))) {
                    return Some("expected 8 bits and 1, 3 or 4 colour components");
                }
                scans += usize::from(*marker == 0xDA);
                if scans > MAX_SCANS {
                    return Some("expected at most 100 scans");
                }
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
            None => break,
        }
    }
    Some("the file is cut short")
}
