//! Pictures to `pixel_values`: [`decode`], then a [`Preprocessor`].

mod decoded;
mod decoding;
mod jpeg;
mod picture;
mod pixel_values;
mod png;
mod preprocessing;
mod variation;
mod webp;

pub use decoding::decode;
pub use picture::Picture;
pub use pixel_values::PixelValues;
pub use preprocessing::Preprocessor;
pub use variation::Variation;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn path(name: &str) -> std::path::PathBuf {
        std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    pub(super) fn read(name: &str) -> Vec<u8> {
        std::fs::read(path("tests/data/images").join(name)).unwrap()
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
}
