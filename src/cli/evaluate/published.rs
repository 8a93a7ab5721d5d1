//! Figures that were published for InternVL-14B, for splits that are known by their size.

use super::annotations::Annotated;

/// What was published for captions of a split, zero-shot, by InternVL-G.
pub struct Captions {
    pub split: &'static str,
    pub cider: f64,
    pub bleu4: f64,
}

const CAPTIONS: [(usize, Captions); 3] = [
    (5000, Captions { split: "COCO, Karpathy's test split", cider: 128.2, bleu4: 37.1 }),
    (1000, Captions { split: "Flickr30k, Karpathy's test split", cider: 79.2, bleu4: 27.0 }),
    (4500, Captions { split: "NoCaps, validation", cider: 113.7, bleu4: 44.3 }),
];

/// The published figures, where these are the pictures of a known split: by their number, and by how many texts each has
/// at least.
pub fn captions(pictures: &[Annotated]) -> Option<&'static Captions> {
    let least = pictures.iter().map(|picture| picture.texts.len()).min().unwrap_or(0);
    let found = CAPTIONS.iter().find(|(count, _)| *count == pictures.len() && least >= 5)?;
    Some(&found.1)
}
