//! Pictures to `pixel_values`: decode, turn upright, then CLIP's image processor (RGB with alpha dropped; short side to
//! `size`, long side to `int(size * long / short)`, Pillow's bicubic rounded to bytes; centre crop with floored
//! offsets; `(byte / 255 - mean) / std`).
//!
//! The resize is Pillow's own fixed-point arithmetic, and only the rows and columns that the crop keeps are made, so a
//! picture of one by 65535 costs no more than another.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, metadata::Orientation};
use jpeg_decoder::PixelFormat;
use serde_json::Value;

use crate::error::{Error, Result};

/// Most pixels that a picture may have (2^26, 8192 x 8192), so that a small file cannot ask for all memory.
pub const MAX_PIXELS: u64 = 1 << 26;

/// Longest side that a picture may have, in pixels.
pub const MAX_SIDE: u32 = 1 << 20;

/// Largest `size` or `crop_size` of a preprocessor, in pixels.
const MAX_SIZE: u32 = 4096;

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

fn fits(width: u32, height: u32) -> bool {
    let pixels = u64::from(width) * u64::from(height);
    (1..=MAX_PIXELS).contains(&pixels) && width <= MAX_SIDE && height <= MAX_SIDE
}

/// Decodes the bytes of a PNG, JPEG or WebP picture; the contents decide which, not the name. Grey and palette become
/// RGB, alpha is dropped, 16-bit channels become 8-bit. With `apply_orientation` the picture is turned upright as its
/// EXIF data say; the published preprocessing does not do that. `file_name` only serves messages.
///
/// # Errors
/// [`Error::Image`] when the bytes are no such picture, are cut short, or the picture is larger than [`MAX_PIXELS`].
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

/// What `preprocessor_config.json` asks for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Preprocessor {
    short_side: u32,
    crop: u32,
    rescale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Preprocessor {
    /// The published model's preprocessing (`size` 224 there), for any side from 1 to 4096 pixels.
    ///
    /// # Errors
    /// [`Error::Input`] for another size.
    pub fn new(size: u32) -> Result<Preprocessor> {
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(Error::Input {
                reason: format!("picture size: expected 1 to {MAX_SIZE} pixels, found {size}"),
            });
        }
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        Ok(Preprocessor { short_side: size, crop: size, rescale: 1.0 / 255.0, mean, std })
    }

    /// Reads the bytes of a `preprocessor_config.json`. `size` and `crop_size` may be a number, `{"height", "width"}`
    /// (equal) or `{"shortest_edge"}`; what is absent is the published model's, `crop_size` that of `size`.
    /// `file_name` only serves messages.
    ///
    /// # Errors
    /// [`Error::Config`] when the bytes are not JSON, a value is out of range, or a step is asked for or left out that
    /// this preprocessing cannot honour.
    pub fn from_bytes(file_name: &str, bytes: &[u8]) -> Result<Preprocessor> {
        let fail = |pointer: &str, rule: String| Error::Config {
            file: file_name.to_string(),
            pointer: pointer.to_string(),
            rule,
        };
        let json: Value =
            serde_json::from_slice(bytes).map_err(|e| fail("/", format!("expected a JSON object: {e}")))?;
        let Value::Object(fields) = &json else {
            return Err(fail("/", "expected a JSON object".to_string()));
        };
        let field = |name: &str| fields.get(name).filter(|v| !v.is_null());
        for name in ["do_resize", "do_center_crop", "do_normalize", "do_rescale", "do_convert_rgb"] {
            if let Some(value) = field(name).filter(|v| v.as_bool() != Some(true)) {
                return Err(fail(&format!("/{name}"), format!("expected true, found {}", shown(value))));
            }
        }
        if let Some(value) = field("resample").filter(|v| v.as_u64() != Some(3)) {
            return Err(fail("/resample", format!("expected 3 (bicubic), found {}", shown(value))));
        }
        let side = |name: &str, default: u32| -> Result<u32> {
            let Some(value) = field(name) else { return Ok(default) };
            let number = match value {
                Value::Object(sides) => match (sides.get("shortest_edge"), sides.get("height"), sides.get("width")) {
                    (Some(edge), None, None) => edge.as_u64(),
                    (None, Some(height), Some(width)) if height == width => height.as_u64(),
                    _ => None,
                },
                other => other.as_u64(),
            };
            number.and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=MAX_SIZE).contains(n)).ok_or_else(|| {
                let rule = format!(
                    "expected 1 to {MAX_SIZE} pixels (a number, equal height and width, or shortest_edge), found {}",
                    shown(value)
                );
                fail(&format!("/{name}"), rule)
            })
        };
        let short_side = side("size", 224)?;
        let crop = side("crop_size", short_side)?;
        if crop > short_side {
            return Err(fail("/crop_size", format!("expected at most size ({short_side}), found {crop}")));
        }
        let number = |value: &Value| value.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
        let three = |name: &str, default: [f32; 3], positive: bool| -> Result<[f32; 3]> {
            let Some(value) = field(name) else { return Ok(default) };
            let numbers: Option<Vec<f32>> =
                value.as_array().and_then(|a| a.iter().map(|v| number(v).filter(|n| !positive || *n > 0.0)).collect());
            numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| {
                let kind = if positive { "positive numbers" } else { "numbers" };
                fail(&format!("/{name}"), format!("expected three {kind}, found {}", shown(value)))
            })
        };
        let published = Preprocessor::new(short_side)?;
        let rescale = match field("rescale_factor") {
            None => published.rescale,
            Some(value) => number(value).filter(|n| *n > 0.0).ok_or_else(|| {
                fail("/rescale_factor", format!("expected a positive number, found {}", shown(value)))
            })?,
        };
        let mean = three("image_mean", published.mean, false)?;
        let std = three("image_std", published.std, true)?;
        Ok(Preprocessor { short_side, crop, rescale, mean, std })
    }

    /// The side of what [`pixel_values`](Preprocessor::pixel_values) makes, in pixels.
    pub fn size(&self) -> u32 {
        self.crop
    }

    /// The normalised pixels of a picture, [3, size, size], channels red, green, blue; in units of the standard
    /// deviations of `preprocessor_config.json`.
    pub fn pixel_values(&self, picture: &Picture) -> Vec<f32> {
        let bytes = self.resize_and_crop(picture);
        let side = self.crop as usize;
        let mut values = Vec::with_capacity(3 * side * side);
        for channel in 0..3 {
            // 256 bytes can occur, so their values are worked out once.
            let table: [f32; 256] = std::array::from_fn(|byte| {
                let unit = byte as f32 * self.rescale;
                (unit - self.mean[channel]) / self.std[channel]
            });
            values.extend(bytes.iter().skip(channel).step_by(3).map(|&byte| table[byte as usize]));
        }
        values
    }

    /// [size, size, 3] bytes: across first, then down, each rounded to bytes, as Pillow does.
    fn resize_and_crop(&self, picture: &Picture) -> Vec<u8> {
        let (width, height) = (picture.width as usize, picture.height as usize);
        let (size, crop) = (u64::from(self.short_side), self.crop as usize);
        let short = u64::from(picture.width.min(picture.height));
        let columns = taps(picture.width, size * u64::from(picture.width) / short, crop);
        let rows = taps(picture.height, size * u64::from(picture.height) / short, crop);
        let top = rows.iter().map(|r| r.start).min().unwrap_or(0);
        let bottom = rows.iter().map(|r| r.start + r.weights.len()).max().unwrap_or(height);

        let mut across = Vec::with_capacity((bottom - top) * crop * 3);
        for y in top..bottom {
            let line = &picture.rgb[y * width * 3..(y + 1) * width * 3];
            for column in &columns {
                let mut sum = [HALF; 3];
                let pixels = line[column.start * 3..].as_chunks::<3>().0;
                for (pixel, &weight) in pixels.iter().zip(&column.weights) {
                    for c in 0..3 {
                        sum[c] += i32::from(pixel[c]) * weight;
                    }
                }
                across.extend(sum.map(to_byte));
            }
        }

        let stride = crop * 3;
        let mut out = Vec::with_capacity(crop * stride);
        let mut sums = vec![0i32; stride];
        for row in &rows {
            sums.fill(HALF);
            let lines = across[(row.start - top) * stride..].chunks_exact(stride);
            for (line, &weight) in lines.zip(&row.weights) {
                for (sum, &byte) in sums.iter_mut().zip(line) {
                    *sum += i32::from(byte) * weight;
                }
            }
            out.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
        out
    }
}

/// A JSON value for a message: short, on one line.
fn shown(value: &Value) -> String {
    crate::error::printable(&value.to_string())
}

/// Fractional bits of a weight, as in Pillow: 32 less 8 for the byte less 2 for sums beyond it.
const PRECISION: u32 = 22;
/// One half, so that dropping the fraction rounds.
const HALF: i32 = 1 << (PRECISION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// One output row or column: where in the input it begins and the weights from there on.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// The taps of the middle `crop` of `output` places that `input` places are resized to. `Resample.c` of Pillow,
/// `precompute_coeffs` and `normalize_coeffs_8bpc`; `crop` is at most `output`.
fn taps(input: u32, output: u64, crop: usize) -> Vec<Taps> {
    let first = (output - crop as u64) / 2;
    let scale = f64::from(input) / output as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    (first..first + crop as u64)
        .map(|place| {
            let center = (place as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input as usize);
            let weights: Vec<f64> =
                (start..end).map(|x| bicubic((x as f64 - center + 0.5) * (1.0 / stretch))).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |w: f64| (w / total * f64::from(1u32 << PRECISION) + 0.5f64.copysign(w)) as i32;
            Taps { start, weights: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

/// The cubic convolution kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn path(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn read(name: &str) -> Vec<u8> {
        std::fs::read(path("tests/data/images").join(name)).unwrap()
    }

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
    fn pixel_values_agree_with_the_published_processor() {
        let file = read("pixel_values.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let preprocessor = Preprocessor::new(224).unwrap();
        assert_eq!(tensors.len(), 8);
        for (name, tensor) in tensors.iter() {
            let name = name.to_string();
            let picture = decode(&name, &read(&name), false).unwrap();
            let values = preprocessor.pixel_values(&picture);
            let expected: Vec<f32> = tensor.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            assert_eq!(tensor.shape().iter().product::<usize>(), 3 * 224 * 224);
            assert_eq!(values.len(), expected.len());
            let differences: Vec<f32> = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).collect();
            let largest = differences.iter().copied().fold(0.0, f32::max);
            let mean = differences.iter().sum::<f32>() / differences.len() as f32;
            println!("{name}: largest {largest:.2e}, mean {mean:.2e}");
            // JPEG decoders differ by a few steps; all else is exact but for the last bit of a float.
            let (largest_allowed, mean_allowed) = if name.ends_with(".jpg") { (0.1, 0.004) } else { (1e-5, 1e-6) };
            assert!(largest <= largest_allowed && mean <= mean_allowed, "{name}: largest {largest}, mean {mean}");
        }
    }

    #[test]
    fn pictures_of_the_right_size_are_not_resized() {
        let file = std::fs::read(path("models/emoji-tiny/preprocessor_config.json")).unwrap();
        let preprocessor = Preprocessor::from_bytes("preprocessor_config.json", &file).unwrap();
        assert_eq!(preprocessor, Preprocessor::new(64).unwrap());
        let mut count = 0;
        for entry in std::fs::read_dir(path("models/emoji-tiny/pictures")).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|e| e == "png") {
                let picture = decode("p.png", &std::fs::read(file).unwrap(), true).unwrap();
                assert_eq!(preprocessor.resize_and_crop(&picture), picture.rgb());
                count += 1;
            }
        }
        assert_eq!(count, 400);
    }

    #[test]
    fn raw_pixels_equal_the_file() {
        let picture = decode("alpha.png", &read("alpha.png"), true).unwrap();
        let mut rgba = Vec::new();
        for (i, pixel) in picture.rgb().as_chunks::<3>().0.iter().enumerate() {
            rgba.extend(pixel);
            rgba.push(i as u8);
        }
        assert_eq!(Picture::from_rgba(picture.width(), picture.height(), &rgba).unwrap(), picture);
        for (width, height, bytes) in [(0, 0, 0), (0, 5, 0), (2, 2, 15), (2, 2, 17), (u32::MAX, u32::MAX, 4)] {
            assert!(Picture::from_rgba(width, height, &vec![0; bytes]).is_err());
            assert!(Picture::from_rgb(width, height, vec![0; bytes]).is_err());
        }
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

    #[test]
    fn thin_pictures_come_out_right() {
        let preprocessor = Preprocessor::new(224).unwrap();
        for (width, height) in [(1, 1), (1, 65535), (65535, 1), (2, 3), (223, 225)] {
            let picture = Picture::from_rgb(width, height, vec![200; (width * height * 3) as usize]).unwrap();
            let bytes = preprocessor.resize_and_crop(&picture);
            assert_eq!(bytes, vec![200; 224 * 224 * 3], "{width} x {height}");
            let values = preprocessor.pixel_values(&picture);
            assert_eq!(values.len(), 3 * 224 * 224);
            assert!((values[0] - (200.0 / 255.0 - 0.485) / 0.229).abs() < 1e-5);
        }
        // Half dark, half light: the middle of the crop is where they meet.
        let rgb: Vec<u8> = (0..1000).flat_map(|y| [if y < 500 { 0 } else { 255 }; 3]).collect();
        let bytes = preprocessor.resize_and_crop(&Picture::from_rgb(1, 1000, rgb).unwrap());
        assert!(bytes[0] < 60 && bytes[bytes.len() - 1] > 195);
    }

    #[test]
    fn configurations() {
        let read = |json: &str| Preprocessor::from_bytes("preprocessor_config.json", json.as_bytes());
        let published = Preprocessor::new(224).unwrap();
        assert_eq!(read("{}").unwrap(), published);
        assert_eq!(read(r#"{"size": 336}"#).unwrap().size(), 336);
        assert_eq!(
            read(r#"{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}"#).unwrap().size(),
            224
        );
        assert_eq!(read(r#"{"size": {"height": 224, "width": 224}, "rescale_factor": null}"#).unwrap(), published);
        for (json, pointer) in [
            ("", "/"),
            ("[]", "/"),
            (r#"{"size": 0}"#, "/size"),
            (r#"{"size": -3}"#, "/size"),
            (r#"{"size": 4000000000}"#, "/size"),
            (r#"{"size": "224"}"#, "/size"),
            (r#"{"size": {"height": 224, "width": 448}}"#, "/size"),
            (r#"{"size": {}}"#, "/size"),
            (r#"{"size": 200, "crop_size": 224}"#, "/crop_size"),
            (r#"{"image_mean": [0.5, 0.5]}"#, "/image_mean"),
            (r#"{"image_mean": [0.5, 0.5, "x"]}"#, "/image_mean"),
            (r#"{"image_std": [0.5, 0, 0.5]}"#, "/image_std"),
            (r#"{"image_std": 1}"#, "/image_std"),
            (r#"{"resample": 2}"#, "/resample"),
            (r#"{"do_resize": false}"#, "/do_resize"),
            (r#"{"rescale_factor": 0}"#, "/rescale_factor"),
        ] {
            let Err(Error::Config { file, pointer: found, .. }) = read(json) else { panic!("{json}") };
            assert_eq!((file.as_str(), found.as_str()), ("preprocessor_config.json", pointer), "{json}");
        }
        assert!(Preprocessor::new(0).is_err() && Preprocessor::new(u32::MAX).is_err());
    }
}
