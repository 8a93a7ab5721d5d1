//! Files of pictures to pixels: which format it is, how much memory decoding takes, and what turns the result upright.
//! [`png`], [`jpeg`] and [`webp`] read the formats.

use image::{DynamicImage, RgbImage, metadata::Orientation};

use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::files::source::{base_name, read_limited};
use crate::image::decoded::{Decoded, Name};
#[cfg(not(target_arch = "wasm32"))]
use crate::image::picture::MAX_PIXELS;
use crate::image::picture::Picture;
use crate::image::{jpeg, png, webp};
use crate::panics::caught;
use crate::room::room;

/// Most bytes that a file of a picture may have: as many as the largest picture takes that is not compressed at all.
#[cfg(not(target_arch = "wasm32"))]
const MAX_FILE_BYTES: u64 = MAX_PIXELS * 8;

const EXPECTED: &str = "expected a PNG, JPEG or WebP picture";

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Png,
    Jpeg,
    WebP,
}

impl Picture {
    /// Reads a PNG, JPEG or WebP file and turns it upright as its EXIF data say.
    ///
    /// # Errors
    /// `E_IO` where there is no such file, `E_IMAGE` where it is no such picture or too large, `E_OOM`.
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
        let name = base_name(path);
        let bytes = read_limited(path, MAX_FILE_BYTES, |start| Format::of(&name, start).map(drop))?;
        decode(&name, &bytes, upright)
    }

    /// Decodes the bytes of a PNG, JPEG or WebP file and turns the picture upright as its EXIF data say.
    ///
    /// # Errors
    /// `E_IMAGE` where it is no such picture or too large, `E_OOM`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Picture> {
        decode("the picture", bytes, true)
    }
}

impl Format {
    /// The format of a file that begins with `start`.
    fn of(file_name: &str, start: &[u8]) -> Result<Format> {
        let found = match start {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => return Ok(Format::Png),
            [0xFF, 0xD8, 0xFF, ..] => return Ok(Format::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => return Ok(Format::WebP),
            [] => "an empty file",
            _ => "something else",
        };
        Err(Name(file_name).fail(format!("{EXPECTED}, found {found}")))
    }
}

/// Decodes the bytes of a PNG, JPEG or WebP picture; the contents decide which, not the name. Grey and palette become
/// RGB, alpha is dropped, of 16-bit channels the upper 8 are taken, the first frame of what moves. With
/// `apply_orientation` the picture is turned upright as its EXIF data say; the published preprocessing does not do that.
/// `file_name` only serves messages.
///
/// # Errors
/// [`Error::Image`](crate::Error::Image) when the bytes are no such picture, are cut short, or the picture is larger than
/// `MAX_PIXELS`; [`Error::HostMemory`](crate::Error::HostMemory).
pub fn decode(file_name: &str, bytes: &[u8], apply_orientation: bool) -> Result<Picture> {
    let format = Format::of(file_name, bytes)?;
    let name = Name(file_name);
    // Decoders are the code of others, and pictures come from anywhere.
    let decoded = caught(|| {
        let decoded = match format {
            Format::Png => png::decode(&name, bytes),
            Format::Jpeg => jpeg::decode(&name, bytes),
            Format::WebP => webp::decode(&name, bytes),
        }?;
        let orientation = match &decoded.exif {
            // Broken EXIF data say nothing about the picture itself.
            Some(exif) if apply_orientation => Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms),
            _ => Orientation::NoTransforms,
        };
        upright(&name, decoded, orientation)
    });
    decoded.unwrap_or_else(|reason| {
        Err(name.fail(format!("expected a whole {format:?} picture: its decoder stopped ({reason})")))
    })
}

fn upright(name: &Name<'_>, decoded: Decoded, orientation: Orientation) -> Result<Picture> {
    let Decoded { width, height, samples, channels, .. } = decoded;
    let rgb = to_rgb(name, samples, channels)?;
    if orientation == Orientation::NoTransforms {
        return Picture::from_rgb(width, height, rgb);
    }
    let other = || name.fail(format!("expected {width} x {height} pixels, found others"));
    let mut picture = DynamicImage::from(RgbImage::from_raw(width, height, rgb).ok_or_else(other)?);
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width(), picture.height());
    Picture::from_rgb(width, height, picture.into_rgb8().into_raw())
}

/// RGB of pixels of 1 to 4 channels, in place where that is possible.
fn to_rgb(name: &Name<'_>, mut samples: Vec<u8>, channels: usize) -> Result<Vec<u8>> {
    if channels <= 2 {
        let mut rgb = room(name.0, samples.len() / channels * 3)?;
        rgb.extend(samples.iter().step_by(channels).flat_map(|&grey| [grey; 3]));
        return Ok(rgb);
    }
    if channels == 4 {
        let pixels = samples.len() / 4;
        for i in 1..pixels {
            samples.copy_within(4 * i..4 * i + 3, 3 * i);
        }
        samples.truncate(3 * pixels);
        samples.shrink_to_fit();
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::ImageFormat;

    use crate::error::Error;

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

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    /// A chunk of a PNG file, its checksum right.
    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let mut crc = !0u32;
        for &byte in kind.iter().chain(data) {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            }
        }
        [&(data.len() as u32).to_be_bytes()[..], kind, data, &(!crc).to_be_bytes()].concat()
    }

    /// The chunk IHDR; `rest` is depth, kind of colours, and three more.
    fn header(width: u32, height: u32, rest: [u8; 5]) -> Vec<u8> {
        chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &rest].concat())
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
        // EXIF data behind the pixels of a PNG, where there may be rubbish, too.
        let plain = with_exif(ImageFormat::Png, tiff(1));
        let end = plain.len() - 12;
        let at = plain.windows(4).position(|four| four == b"eXIf").unwrap() - 4;
        let length = 12 + tiff(1).len();
        let without = [&plain[..at], &plain[at + length..end]].concat();
        for rest in [&b""[..], b"\0\0\0\0IEND\xaeB`\x82", b"rubbish"] {
            let behind = [&without[..], &chunk(b"eXIf", &tiff(6)), rest].concat();
            let upright = decode("p", &behind, true).unwrap();
            assert_eq!((upright.width(), upright.height()), (1, 2), "{rest:?}");
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

    /// Of 16 bits the upper 8, also of grey, where Pillow makes white of all above 255.
    #[test]
    fn deep_pictures() {
        let values: [u16; 6] = [0, 200, 0x1234, 0x8080, 0xFE80, 0xFFFF];
        let upper: Vec<u8> = values.iter().flat_map(|v| [(v >> 8) as u8; 3]).collect();
        for (kind, channels) in [(0, 1), (2, 3), (4, 2), (6, 4)] {
            let pixels = values.iter().flat_map(|v| std::iter::repeat_n(v.to_be_bytes(), channels).flatten());
            let row: Vec<u8> = std::iter::once(0).chain(pixels).collect();
            // Stored bytes in the form of zlib.
            let [low, high] = (row.len() as u16).to_le_bytes();
            let data = [&[0x78, 0x01, 0x01, low, high, !low, !high][..], &row, &adler(&row)].concat();
            let rest = [chunk(b"IDAT", &data), chunk(b"IEND", b"")].concat();
            let file = [PNG, &header(6, 1, [16, kind, 0, 0, 0]), &rest].concat();
            assert_eq!(decode("p.png", &file, true).unwrap().rgb(), upper, "{kind}");
        }
    }

    /// The checksum that ends zlib's streams.
    fn adler(bytes: &[u8]) -> [u8; 4] {
        let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), &x| {
            let a = (a + u32::from(x)) % 65521;
            (a, (b + a) % 65521)
        });
        (b << 16 | a).to_be_bytes()
    }

    #[test]
    fn kinds_of_jpeg() {
        for (components, light) in [(1, 128), (3, 128), (4, 64)] {
            let picture = decode("p.png", &tiny_jpeg(components, 8), true).unwrap();
            assert_eq!(picture.rgb(), [light; 8 * 8 * 3], "{components}");
        }
        // As many scans as no encoder makes.
        let file = tiny_jpeg(1, 8);
        let scan = file.windows(2).position(|two| two == [0xFF, 0xDA]).unwrap();
        let scans = |n| [&file[..scan], &file[scan..file.len() - 2].repeat(n), &file[file.len() - 2..]].concat();
        assert!(decode("p.png", &scans(100), true).is_ok());
        assert!(error(decode("p.png", &scans(101), true)).contains("100 scans"));
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

    /// Frames whose size is not their data's, in which the decoder reads and writes beyond what it has.
    #[test]
    fn decoders_that_panic() {
        let broken = read("broken-animated.webp");
        let reason = error(decode("p.png", &broken, true));
        assert!(reason.contains("whole WebP") && reason.contains("its decoder stopped"), "{reason}");
        // The next one is read as if nothing had been.
        assert!(decode("p.png", &read("small.png"), true).is_ok());
    }

    #[test]
    fn headers_cannot_ask_for_all_memory() {
        let png = |width: u32, height: u32| {
            [PNG, &header(width, height, [8, 2, 0, 0, 0]), b"\0\0\0\0IDAT\x35\xaf\x06\x1e"].concat()
        };
        for (width, height) in [(0, 0), (0, 9), (u32::MAX, 1), (1 << 30, 1 << 30), (30000, 30000), (1, 1 << 21)] {
            error(decode("p.png", &png(width, height), true));
        }
        // The header itself is fine: a size in bounds fails for want of pixels only.
        assert!(error(decode("p.png", &png(3, 3), true)).contains("whole Png"));
    }
}
