//! Pictures to `pixel_values`, as CLIP's image processor makes them: short side to `size`, long side to
//! `int(size * long / short)`, Pillow's bicubic rounded to bytes; centre crop with floored offsets;
//! `(byte / 255 - mean) / std`.
//!
//! The resize is Pillow's own fixed-point arithmetic, and only the rows and columns that the crop keeps are made, so a
//! picture of one by 65535 costs no more than another.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::image::picture::Picture;
use crate::image::pixel_values::PixelValues;

/// Largest `size` or `crop_size` of a preprocessor, in pixels.
const MAX_SIZE: u32 = 4096;

/// What `preprocessor_config.json` asks for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Preprocessor {
    /// The whole picture becomes the square, whatever its shape: nothing is cut off.
    stretched: bool,
    short_side: u32,
    crop: u32,
    rescale: f32,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
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
        Ok(Preprocessor { stretched: false, short_side: size, crop: size, rescale: 1.0 / 255.0, mean, std })
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
        Ok(Preprocessor { stretched: false, short_side, crop, rescale, mean, std })
    }

    /// The side of what [`pixel_values`](Preprocessor::pixel_values) makes, in pixels.
    pub fn size(&self) -> u32 {
        self.crop
    }

    /// This preprocessor, but the whole picture becomes the square, whatever its shape, as the published evaluation of captions
    /// does: nothing is cut off.
    pub fn stretched(&self) -> Preprocessor {
        Preprocessor { stretched: true, ..*self }
    }

    /// Cuts squares out as [`square`](Preprocessor::square) does, and is no good for more.
    ///
    /// # Errors
    /// [`Error::Input`] for sides that no model has.
    #[cfg(target_arch = "wasm32")]
    pub fn squares(short_side: u32, crop: u32) -> Result<Preprocessor> {
        let published = Preprocessor::new(short_side)?;
        Preprocessor::new(crop)?;
        Ok(Preprocessor { crop: crop.min(short_side), ..published })
    }

    /// The short side of what pictures are resized to, in pixels, before the square in the middle is taken.
    #[cfg(target_arch = "wasm32")]
    pub fn short_side(&self) -> u32 {
        self.short_side
    }

    /// The square of a picture that the model sees, [size, size, 3]: what is left is to normalise it.
    #[cfg(target_arch = "wasm32")]
    pub fn square(&self, picture: &Picture) -> Vec<u8> {
        self.resize_and_crop(picture)
    }

    /// This preprocessor for pictures that are such squares already.
    #[cfg(target_arch = "wasm32")]
    pub fn of_squares(&self) -> Preprocessor {
        Preprocessor { short_side: self.crop, ..*self }
    }

    /// The normalised pixels of a picture, [3, size, size], channels red, green, blue; in units of the standard
    /// deviations of `preprocessor_config.json`.
    pub fn pixel_values(&self, picture: &Picture) -> PixelValues {
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
        PixelValues { batch: 1, height: side, width: side, values }
    }

    /// [size, size, 3] bytes: across first, then down, each rounded to bytes, as Pillow does.
    fn resize_and_crop(&self, picture: &Picture) -> Vec<u8> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (size, crop) = (u64::from(self.short_side), self.crop as usize);
        let short = u64::from(picture.width().min(picture.height()));
        let resized = |side: u32| if self.stretched { crop as u64 } else { size * u64::from(side) / short };
        let columns = taps(picture.width(), resized(picture.width()), crop);
        let rows = taps(picture.height(), resized(picture.height()), crop);
        let top = rows.iter().map(|r| r.start).min().unwrap_or(0);
        let bottom = rows.iter().map(|r| r.start + r.weights.len()).max().unwrap_or(height);

        let mut across = Vec::with_capacity((bottom - top) * crop * 3);
        for y in top..bottom {
            let line = &picture.rgb()[y * width * 3..(y + 1) * width * 3];
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
    use super::super::tests::{path, read};
    use super::*;
    use crate::image::decode;

    #[test]
    fn pixel_values_agree_with_the_published_processor() {
        let file = read("pixel_values.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let preprocessor = Preprocessor::new(224).unwrap();
        assert_eq!(tensors.len(), 8);
        for (name, tensor) in tensors.iter() {
            let name = name.to_string();
            let picture = decode(&name, &read(&name), false).unwrap();
            let values = preprocessor.pixel_values(&picture).values;
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
    fn thin_pictures_come_out_right() {
        let preprocessor = Preprocessor::new(224).unwrap();
        for (width, height) in [(1, 1), (1, 65535), (65535, 1), (2, 3), (223, 225)] {
            let picture = Picture::from_rgb(width, height, vec![200; (width * height * 3) as usize]).unwrap();
            let bytes = preprocessor.resize_and_crop(&picture);
            assert_eq!(bytes, vec![200; 224 * 224 * 3], "{width} x {height}");
            let values = preprocessor.pixel_values(&picture).values;
            assert_eq!(values.len(), 3 * 224 * 224);
            assert!((values[0] - (200.0 / 255.0 - 0.485) / 0.229).abs() < 1e-5);
        }
        // Half dark, half light: the middle of the crop is where they meet.
        let rgb: Vec<u8> = (0..1000).flat_map(|y| [if y < 500 { 0 } else { 255 }; 3]).collect();
        let bytes = preprocessor.resize_and_crop(&Picture::from_rgb(1, 1000, rgb).unwrap());
        assert!(bytes[0] < 60 && bytes[bytes.len() - 1] > 195);
    }

    /// The whole picture is there, whatever its shape; one that is a square is as without it.
    #[test]
    fn stretched_pictures_lose_nothing() {
        let plain = Preprocessor::new(64).unwrap();
        let stretched = plain.stretched();
        let rgb: Vec<u8> = (0..300 * 100).flat_map(|i| [if i % 300 < 30 { 0 } else { 255 }; 3]).collect();
        let wide = Picture::from_rgb(300, 100, rgb).unwrap();
        let (cut, whole) = (plain.resize_and_crop(&wide), stretched.resize_and_crop(&wide));
        // A tenth of the width is dark, which the middle square has nothing of.
        let dark = |bytes: &[u8]| bytes.iter().filter(|byte| **byte < 128).count() as f64 / bytes.len() as f64;
        assert!(dark(&cut) == 0.0 && (dark(&whole) - 0.1).abs() < 0.01, "{} and {}", dark(&cut), dark(&whole));
        let square = Picture::from_rgb(90, 90, (0..90 * 90 * 3).map(|i| (i * 7 % 256) as u8).collect()).unwrap();
        assert_eq!(plain.resize_and_crop(&square), stretched.resize_and_crop(&square));
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
