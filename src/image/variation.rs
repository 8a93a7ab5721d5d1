//! Pictures changed at random, a little, so that training on a few of them learns more than those very pixels.

use crate::image::pixel_values::PixelValues;
use crate::image::preprocessing::Preprocessor;

/// One change: where each pixel comes from, and how colours are mixed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Variation {
    /// From a place of the result, with the picture's half sides as units, to one of the picture.
    matrix: [[f32; 2]; 2],
    shift: [f32; 2],
    /// What is left of white (1 - value) is mixed by it.
    colours: [[f32; 3]; 3],
}

impl Variation {
    /// Turned by up to 12 degrees, scaled by 0.84 to 1.13, stretched by up to 7 %, sheared by up to 0.09, moved by up to 8 %
    /// of the half side, mirrored with chance 0.35; colours mixed by the identity plus noise of 0.042, and scaled by 0.88 to
    /// 1.12.
    pub fn draw(random: &mut fastrand::Rng) -> Variation {
        let mut within = |size: f32| (2.0 * random.f32() - 1.0) * size;
        let turn = within(12.0_f32.to_radians());
        let (stretch, shear) = (1.0 + within(0.07), within(0.09));
        let shift = [within(0.08), within(0.08)];
        let scale = 0.84 + 0.29 * random.f32();
        let mirror = if random.f32() < 0.35 { -1.0 } else { 1.0 };
        let (sin, cos) = turn.sin_cos();
        // The picture is sheared, stretched, turned and scaled: its places are found the other way round.
        let (across, down) = (mirror / (scale * stretch), stretch / scale);
        let matrix = [[across * (cos + shear * sin), across * (sin - shear * cos)], [-down * sin, down * cos]];
        let light = 0.88 + 0.24 * random.f32();
        let mut colours = [[0.0; 3]; 3];
        for (i, row) in colours.iter_mut().enumerate() {
            for (j, factor) in row.iter_mut().enumerate() {
                *factor = light * (f32::from(u8::from(i == j)) + 0.042 * normal(random));
            }
        }
        Variation { matrix, shift, colours }
    }
}

/// A number of the normal distribution (Box and Muller, 1958).
fn normal(random: &mut fastrand::Rng) -> f32 {
    let radius = (-2.0 * (1.0 - random.f32()).ln()).sqrt();
    radius * (2.0 * std::f32::consts::PI * random.f32()).cos()
}

impl Preprocessor {
    /// The pictures changed, all alike. Beyond their edges is what their edges have on average: white, for drawings on white.
    pub fn varied(&self, pixels: &PixelValues, variation: &Variation) -> PixelValues {
        let (height, width) = (pixels.height, pixels.width);
        let mut out = pixels.clone();
        let plane = height * width;
        for (from, to) in pixels.values.chunks(3 * plane).zip(out.values.chunks_mut(3 * plane)) {
            let planes: [&[f32]; 3] = std::array::from_fn(|c| &from[c * plane..(c + 1) * plane]);
            let edges = planes.map(|values| mean_of_edges(values, height, width));
            for y in 0..height {
                for x in 0..width {
                    let place = [unit(x, width), unit(y, height)];
                    let [x_from, y_from] = std::array::from_fn(|axis| {
                        let row = variation.matrix[axis];
                        row[0] * place[0] + row[1] * place[1] + variation.shift[axis]
                    });
                    let left: [f32; 3] = std::array::from_fn(|c| {
                        let value = sample(planes[c], [height, width], [x_from, y_from], edges[c]);
                        1.0 - (value * self.std[c] + self.mean[c])
                    });
                    for c in 0..3 {
                        let mixed: f32 = (0..3).map(|i| variation.colours[c][i] * left[i]).sum();
                        to[c * plane + y * width + x] = ((1.0 - mixed).clamp(0.0, 1.0) - self.mean[c]) / self.std[c];
                    }
                }
            }
        }
        out
    }
}

/// The middle of pixel `i` of `count`, from -1 to 1.
fn unit(i: usize, count: usize) -> f32 {
    (2 * i + 1) as f32 / count as f32 - 1.0
}

fn mean_of_edges(values: &[f32], height: usize, width: usize) -> f32 {
    let rows = (0..width).flat_map(|x| [values[x], values[(height - 1) * width + x]]);
    let columns = (0..height).flat_map(|y| [values[y * width], values[y * width + width - 1]]);
    rows.chain(columns).sum::<f32>() / (2 * (width + height)) as f32
}

/// The value at a place from -1 to 1, between the four pixels around it; `outside` beyond the edges.
fn sample(values: &[f32], [height, width]: [usize; 2], [x, y]: [f32; 2], outside: f32) -> f32 {
    let x = (x + 1.0) * width as f32 / 2.0 - 0.5;
    let y = (y + 1.0) * height as f32 / 2.0 - 0.5;
    let (left, top) = (x.floor(), y.floor());
    let at = |x: f32, y: f32| {
        if x < 0.0 || y < 0.0 || x >= width as f32 || y >= height as f32 {
            return outside;
        }
        values[y as usize * width + x as usize]
    };
    let (right, below) = (x - left, y - top);
    let upper = at(left, top) * (1.0 - right) + at(left + 1.0, top) * right;
    let lower = at(left, top + 1.0) * (1.0 - right) + at(left + 1.0, top + 1.0) * right;
    upper * (1.0 - below) + lower * below
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> (Preprocessor, PixelValues) {
        let preprocessor = Preprocessor::new(16).unwrap();
        // White, but for a dark square to the left of the middle.
        let mut rgb = vec![255; 3 * 16 * 16];
        for y in 5..11 {
            rgb[3 * (16 * y + 3)..3 * (16 * y + 8)].fill(20);
        }
        let picture = crate::image::Picture::from_rgb(16, 16, rgb).unwrap();
        let pixels = preprocessor.pixel_values(&picture);
        (preprocessor, pixels)
    }

    #[test]
    fn nothing_changes_by_the_identity() {
        let (preprocessor, pixels) = picture();
        let colours = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let same = Variation { matrix: [[1.0, 0.0], [0.0, 1.0]], shift: [0.0; 2], colours };
        let varied = preprocessor.varied(&pixels, &same);
        assert!(varied.values.iter().zip(&pixels.values).all(|(a, b)| (a - b).abs() < 1e-5));
        let mirrored = preprocessor.varied(&pixels, &Variation { matrix: [[-1.0, 0.0], [0.0, 1.0]], ..same });
        for (row, mirrored) in pixels.values.chunks(16).zip(mirrored.values.chunks(16)) {
            assert!(row.iter().rev().zip(mirrored).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    /// White stays white, and the dark square keeps about its size, wherever it goes.
    #[test]
    fn pictures_stay_recognisable() {
        let (preprocessor, pixels) = picture();
        let mut random = fastrand::Rng::with_seed(3);
        let darkness = |pixels: &PixelValues| {
            let white = pixels.values[0];
            pixels.values[..256].iter().map(|v| (white - v).max(0.0)).sum::<f32>()
        };
        for _ in 0..50 {
            let varied = preprocessor.varied(&pixels, &Variation::draw(&mut random));
            let share = darkness(&varied) / darkness(&pixels);
            assert!((0.5..1.6).contains(&share), "{share}");
            assert!(varied.values.iter().all(|v| v.is_finite()));
            assert_ne!(varied.values, pixels.values);
        }
    }
}
