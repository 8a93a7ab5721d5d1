//! What InternViT takes.

use crate::device::array::check_finite;
use crate::error::{Error, Result};
use crate::files::config::VisionConfig;

/// Pictures made ready: f32 [batch, 3, height, width], normalised.
#[derive(Clone, Debug)]
pub struct PixelValues {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub values: Vec<f32>,
}

impl PixelValues {
    /// Checks size and values for a model.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for a size that patches do not divide, `E_NONFINITE`.
    pub fn check(&self, config: &VisionConfig) -> Result<()> {
        let patch = config.patch_size;
        let whole = |n: usize| n >= patch && n.is_multiple_of(patch);
        if self.batch == 0
            || !whole(self.height)
            || !whole(self.width)
            || self.values.len() != self.batch * 3 * self.height * self.width
        {
            return Err(Error::InputShape {
                what: "pixel_values".into(),
                expected: format!("[pictures, 3, height, width] with sides that are multiples of {patch}"),
                found: format!("[{}, 3, {}, {}]", self.batch, self.height, self.width),
            });
        }
        check_finite("pixel_values", &self.values)
    }

    /// Several of one size behind each other; `None` where there are none.
    ///
    /// # Panics
    /// When sizes differ.
    pub fn join(all: impl IntoIterator<Item = PixelValues>) -> Option<PixelValues> {
        all.into_iter().reduce(|mut joined, one| {
            assert_eq!((joined.height, joined.width), (one.height, one.width), "pictures of one size are joined");
            joined.batch += one.batch;
            joined.values.extend(one.values);
            joined
        })
    }

    /// Each picture by itself.
    pub fn each(&self) -> impl Iterator<Item = PixelValues> {
        let per_picture = (3 * self.height * self.width).max(1);
        self.values.chunks(per_picture).map(|values| PixelValues { batch: 1, values: values.to_vec(), ..*self })
    }
}
