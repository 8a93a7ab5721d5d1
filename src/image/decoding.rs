//! Files of pictures to pixels.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, metadata::Orientation};
use jpeg_decoder::PixelFormat;

use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use crate::files::source::{base_name, read_file};
use crate::image::picture::{MAX_PIXELS, MAX_SIDE, Picture, fits};

impl Picture {
    /// Reads a PNG, JPEG or WebP file and turns it upright as its EXIF data say.
    ///
    /// # Errors
    /// `E_IO` where there is no such file, `E_IMAGE` where it is no such picture or too large.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Picture> {
        Picture::open_as_stored(path.as_ref(), true)
    }

    /// As [`Picture::open`]; with `upright` false, as the file stores it.
    ///
    /// # Errors
    /// As [`Picture::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_as_stored(path: &std::path::Path, upright: bool) -> Result<Picture> {
        decode(&base_name(path), &read_file(path)?, upright)
    }

    /// Decodes the bytes of a PNG, JPEG or WebP file and turns the picture upright as its EXIF data say.
    ///
    /// # Errors
    /// `E_IMAGE` where it is no such picture or too large.
    pub fn from_bytes(bytes: &[u8]) -> Result<Picture> {
        decode("the picture", bytes, true)
    }
}

/// Decodes the bytes of a PNG, JPEG or WebP picture; the contents decide which, not the name. Grey and palette become
/// RGB, alpha is dropped, 16-bit channels become 8-bit. With `apply_orientation` the picture is turned upright as its
/// EXIF data say; the published preprocessing does not do that. `file_name` only serves messages.
///
/// # Errors
/// [`Error::Image`] when the bytes are no such picture, are cut short, or the picture is larger than `MAX_PIXELS`.
pub fn decode(file_name: &str, bytes: &[u8], apply_orientation: bool) -> Result<Picture> {
    let fail = |reason: String| Error::Image { file: file_name.to_string(), reason };
    let expected = "expected a PNG, JPEG or WebP picture";
    if bytes.is_empty() {
        return Err(fail(format!("{expected}, found an empty file")));
    }
    let format = image::guess_format(bytes)
        .ok()
        .filter(|f| matches!(f, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP))
        .ok_or_else(|| fail(format!("{expected}, found something else")))?;
    if format == ImageFormat::Jpeg {
        return decode_jpeg(file_name, bytes, apply_orientation);
    }
    let whole = |e: image::ImageError| fail(format!("expected a whole {format:?} picture: {e}"));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(whole)?;
    let (width, height) = decoder.dimensions();
    check_size(file_name, width, height)?;
    // Broken EXIF data say nothing about the picture itself.
    let orientation = match apply_orientation {
        true => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        false => Orientation::NoTransforms,
    };
    upright(DynamicImage::from_decoder(decoder).map_err(whole)?, orientation)
}

fn upright(mut picture: DynamicImage, orientation: Orientation) -> Result<Picture> {
    picture.apply_orientation(orientation);
    let rgb = picture.into_rgb8();
    let (width, height) = rgb.dimensions();
    Picture::from_rgb(width, height, rgb.into_raw())
}

fn check_size(file_name: &str, width: u32, height: u32) -> Result<()> {
    if fits(width, height) {
        return Ok(());
    }
    Err(Error::Image {
        file: file_name.to_string(),
        reason: format!("expected at least 1 x 1 pixels and at most {MAX_PIXELS} in all, found {width} x {height}"),
    })
}

/// JPEG by jpeg-decoder: the image crate's own decoder rounds chroma upwards twice, which moves the mean of
/// `pixel_values` by 0.007 from libjpeg's; this one stays within 0.002.
fn decode_jpeg(file_name: &str, bytes: &[u8], apply_orientation: bool) -> Result<Picture> {
    let fail = |reason: String| Error::Image { file: file_name.to_string(), reason };
    let whole = |e: jpeg_decoder::Error| fail(format!("expected a whole Jpeg picture: {e}"));
    if let Some(fault) = jpeg_fault(bytes) {
        return Err(fail(format!("expected a whole Jpeg picture: {fault}")));
    }
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(MAX_PIXELS as usize * 4);
    decoder.read_info().map_err(whole)?;
    let absent = || fail("expected a whole Jpeg picture: its header is missing".to_string());
    let info = decoder.info().ok_or_else(absent)?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_size(file_name, width, height)?;
    let pixels = decoder.decode().map_err(whole)?;
    let rgb = match info.pixel_format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.into_iter().flat_map(|l| [l; 3]).collect(),
        PixelFormat::L16 => return Err(fail("expected 8 bits a channel, found 16".to_string())),
        // Ink to light without a colour profile, as Pillow does.
        PixelFormat::CMYK32 => {
            let light = |ink: u8, key: u8| (u32::from(255 - ink) * u32::from(255 - key) / 255) as u8;
            let inks = pixels.as_chunks::<4>().0.iter();
            inks.flat_map(|&[c, m, y, k]| [light(c, k), light(m, k), light(y, k)]).collect()
        }
    };
    // Broken EXIF data say nothing about the picture itself.
    let orientation = match decoder.exif_data() {
        Some(exif) if apply_orientation => Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms),
        _ => Orientation::NoTransforms,
    };
    let picture = image::RgbImage::from_raw(width, height, rgb).ok_or_else(absent)?;
    upright(picture.into(), orientation)
}

/// What is wrong with a JPEG file, where the decoder would not say: it fills what a cut file lacks with grey, and
/// panics on numbers of components that are no kind of colour.
fn jpeg_fault(bytes: &[u8]) -> Option<&'static str> {
    let mut at = 2;
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
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
            None => break,
        }
    }
    Some("the file is cut short")
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    fn error(result: Result<Picture>) -> String {
        let Err(Error::Image { file, reason }) = result else { panic!("{result:?}") };
        assert_eq!(file, "p.png");
        reason
    }

    /// A picture file with these raw pixels.
    fn encoded(picture: DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        picture.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    #[test]
    fn orientation_is_applied_when_asked() {
        // Two pixels, red then blue, so that turning by 90 degrees shows.
        let pixels = image::RgbImage::from_raw(2, 1, vec![255, 0, 0, 0, 0, 255]).unwrap();
        let tiff = |orientation: u8| {
            let entry = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
            [&b"II*\0\x08\0\0\0\x01\0"[..], &entry, &[0; 4]].concat()
        };
        let with_exif = |format, data: Vec<u8>| {
            use image::ImageEncoder;
            let mut out = Vec::new();
            let raw = pixels.as_raw();
            if format == ImageFormat::Png {
                let mut encoder = image::codecs::png::PngEncoder::new(&mut out);
                encoder.set_exif_metadata(data).unwrap();
                encoder.write_image(raw, 2, 1, image::ExtendedColorType::Rgb8).unwrap();
            } else {
                let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut out);
                encoder.set_exif_metadata(data).unwrap();
                encoder.write_image(raw, 2, 1, image::ExtendedColorType::Rgb8).unwrap();
            }
            out
        };
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            // 6: turned to the right; 3: upside down.
            let file = with_exif(format, tiff(6));
            let upright = decode("p", &file, true).unwrap();
            assert_eq!((upright.width(), upright.height()), (1, 2), "{format:?}");
            assert_eq!(decode("p", &file, false).unwrap().width(), 2, "{format:?}");
            let upside_down = with_exif(format, tiff(3));
            assert_eq!(decode("p", &upside_down, false).unwrap().rgb(), [255, 0, 0, 0, 0, 255], "{format:?}");
            assert_eq!(decode("p", &upside_down, true).unwrap().rgb(), [0, 0, 255, 255, 0, 0], "{format:?}");
            // EXIF data that make no sense are passed over.
            assert!(decode("p", &with_exif(format, b"nonsense".to_vec()), true).is_ok(), "{format:?}");
        }
        let photo = read("photo.jpg");
        let jpeg = |data: &[u8]| {
            let length = (data.len() as u16 + 8).to_be_bytes();
            [&photo[..2], &[0xFF, 0xE1], &length, b"Exif\0\0", data, &photo[2..]].concat()
        };
        let plain = decode("p", &photo, true).unwrap();
        assert_eq!((plain.width(), plain.height()), (320, 240));
        assert_eq!(decode("p", &jpeg(&tiff(6)), false).unwrap(), plain);
        assert_eq!(decode("p", &jpeg(b"nonsense"), true).unwrap(), plain);
        let turned = decode("p", &jpeg(&tiff(6)), true).unwrap();
        assert_eq!((turned.width(), turned.height()), (240, 320));
        // To the right: what was the lower left corner is now the upper left one.
        let corner = 239 * 320 * 3;
        assert_eq!(turned.rgb()[..3], plain.rgb()[corner..corner + 3]);
    }

    /// The smallest baseline JPEG: `size` pixels of middle grey in each of `components`.
    fn tiny_jpeg(components: u8, size: u16) -> Vec<u8> {
        let ids = 1..=components;
        let [high, low] = size.to_be_bytes();
        let mut file = vec![0xFF, 0xD8, 0xFF, 0xDB, 0, 67, 0];
        file.extend([1; 64]);
        file.extend([0xFF, 0xC0, 0, 8 + 3 * components, 8, high, low, high, low, components]);
        file.extend(ids.clone().flat_map(|id| [id, 0x11, 0]));
        for table in [0x00, 0x10] {
            // One code of one bit, for the value 0: no difference, and the end of a block.
            file.extend([0xFF, 0xC4, 0, 20, table, 1]);
            file.extend([0; 16]);
        }
        file.extend([0xFF, 0xDA, 0, 6 + 2 * components, components]);
        file.extend(ids.flat_map(|id| [id, 0]));
        file.extend([0, 63, 0]);
        file.extend([0; 16]);
        file.extend([0xFF, 0xD9]);
        file
    }

    #[test]
    fn formats_and_kinds_of_pixels() {
        let grey = image::GrayAlphaImage::from_raw(1, 1, vec![80, 0]).unwrap();
        let file = encoded(grey.into(), ImageFormat::Png);
        assert_eq!(decode("p.png", &file, true).unwrap().rgb(), [80, 80, 80]);
        let deep = image::ImageBuffer::<image::Rgba<u16>, _>::from_raw(1, 1, vec![0xFFFF, 0x8080, 0, 0]).unwrap();
        let file = encoded(deep.into(), ImageFormat::Png);
        assert_eq!(decode("p.png", &file, true).unwrap().rgb(), [255, 128, 0]);
        let clear = image::RgbaImage::from_raw(1, 1, vec![10, 20, 30, 0]).unwrap();
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let picture = decode("p.png", &encoded(clear.clone().into(), format), true).unwrap();
            assert_eq!(picture.rgb(), [10, 20, 30], "{format:?}");
        }
    }

    #[test]
    fn kinds_of_jpeg() {
        for (components, light) in [(1, 128), (3, 128), (4, 64)] {
            let picture = decode("p.png", &tiny_jpeg(components, 8), true).unwrap();
            assert_eq!(picture.rgb(), [light; 8 * 8 * 3], "{components}");
        }
        for components in [0, 2, 5] {
            assert!(error(decode("p.png", &tiny_jpeg(components, 8), true)).contains("components"));
        }
        assert!(error(decode("p.png", &tiny_jpeg(3, u16::MAX), true)).contains("65535 x 65535"));
        error(decode("p.png", &tiny_jpeg(3, 0), true));
    }

    #[test]
    fn bad_files_are_errors() {
        assert!(error(decode("p.png", b"", true)).contains("an empty file"));
        assert!(error(decode("p.png", b"hello, I am a text", true)).contains("PNG, JPEG or WebP"));
        assert!(error(decode("p.png", b"GIF89a\x01\0\x01\0\0\0\0;", true)).contains("PNG, JPEG or WebP"));
        let small = read("small.png");
        for n in 0..small.len() - 20 {
            error(decode("p.png", &small[..n], true));
        }
        // WebP may lose its very end and still be whole to its decoder: no panic is what counts there.
        let photo = read("photo.jpg");
        let webp = encoded(image::load_from_memory(&small).unwrap(), ImageFormat::WebP);
        for file in [&photo, &webp] {
            for n in (0..file.len()).step_by(file.len() / 40) {
                let _ = decode("p.png", &file[..n], true);
            }
            error(decode("p.png", &file[..file.len() / 3], true));
        }
        error(decode("p.png", &photo[..photo.len() - 1], true));
        for (file, step) in [(&small, 53), (&photo, 701), (&webp, 301)] {
            for n in (0..file.len()).step_by(step) {
                let mut flipped = file.clone();
                flipped[n] ^= 0xA5;
                let _ = decode("p.png", &flipped, true);
            }
        }
        // Every byte of the JPEG's headers.
        for n in 2..700 {
            for change in [0x01, 0x80, 0xFF] {
                let mut flipped = photo.clone();
                flipped[n] ^= change;
                let _ = decode("p.png", &flipped, true);
            }
        }
    }

    #[test]
    fn headers_cannot_ask_for_all_memory() {
        // A PNG header with any size, its checksum right.
        let png = |width: u32, height: u32| {
            let mut chunk = b"IHDR".to_vec();
            chunk.extend(width.to_be_bytes());
            chunk.extend(height.to_be_bytes());
            chunk.extend([8, 2, 0, 0, 0]);
            let mut crc = !0u32;
            for &byte in &chunk {
                crc ^= u32::from(byte);
                for _ in 0..8 {
                    crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
                }
            }
            [&b"\x89PNG\r\n\x1a\n\0\0\0\x0d"[..], &chunk, &(!crc).to_be_bytes(), b"\0\0\0\0IDAT\x35\xaf\x06\x1e"]
                .concat()
        };
        for (width, height) in [(0, 0), (0, 9), (u32::MAX, 1), (1 << 30, 1 << 30), (30000, 30000), (1, 1 << 21)] {
            error(decode("p.png", &png(width, height), true));
        }
        // The header itself is fine: a size in bounds fails for want of pixels only.
        assert!(error(decode("p.png", &png(3, 3), true)).contains("whole Png"));
    }
}
