//! Figures that were published for InternVL-14B, for splits that are known by their name and size.

use std::path::Path;

use super::annotations::Annotated;
use crate::many::names::base_name;

/// What was published for captions of a split, zero-shot, by InternVL-G.
pub struct Captions {
    pub split: &'static str,
    pub cider: f64,
    pub bleu4: f64,
}

/// A word of the file's name, and the number of pictures.
const CAPTIONS: [(&str, usize, Captions); 3] = [
    ("coco", 5000, Captions { split: "COCO, Karpathy's test split", cider: 128.2, bleu4: 37.1 }),
    ("flickr", 1000, Captions { split: "Flickr30k, Karpathy's test split", cider: 79.2, bleu4: 27.0 }),
    ("nocaps", 4500, Captions { split: "NoCaps, validation", cider: 113.7, bleu4: 44.3 }),
];

/// The published figures, where these are the pictures of a known split, with its five texts or more each.
pub fn captions(file: &Path, pictures: &[Annotated]) -> Option<&'static Captions> {
    let name = base_name(file).to_lowercase();
    let least = pictures.iter().map(|picture| picture.texts.len()).min().unwrap_or(0);
    let known = |(word, count, _): &&(&str, usize, Captions)| name.contains(word) && *count == pictures.len();
    CAPTIONS.iter().find(known).filter(|_| least >= 5).map(|(.., found)| found)
}
