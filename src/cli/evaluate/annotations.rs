//! Pictures with the texts that people wrote: COCO's format (`images`, `annotations`; NoCaps, too), Karpathy's splits
//! (`images` with `sentences`), and lists of `{"image", "caption"}`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use qllama::{Error, Result};
use serde_json::Value;

use crate::many::names::base_name;

/// A picture and its texts.
#[derive(Clone, PartialEq, Debug)]
pub struct Annotated {
    /// As results name it: a number of COCO, or a text.
    pub id: Value,
    pub path: PathBuf,
    pub texts: Vec<String>,
}

/// The pictures of a file of annotations, found in a folder; of Karpathy's files those of the split `test`.
///
/// # Errors
/// `E_IO`; `E_INPUT` for another format, for a picture without texts, and where a picture is not in the folder.
pub fn read(file: &Path, images: &Path) -> Result<Vec<Annotated>> {
    let name = base_name(file);
    let bytes = std::fs::read(file).map_err(|e| Error::System { file: name.clone(), cause: e.into() })?;
    let wrong = |reason: &str| Error::Input { reason: format!("{name}: {reason}") };
    let json: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(&format!("expected JSON: {e}")))?;
    let found = match (json["images"].as_array(), json["annotations"].as_array(), json.as_array()) {
        (Some(all), Some(annotations), _) => coco(all, annotations),
        (Some(all), None, _) => karpathy(all),
        (None, _, Some(list)) => pairs(list),
        _ => None,
    };
    let formats = "expected COCO's format, one of Karpathy's splits, or a list of {\"image\", \"caption\"}";
    let mut found = found.ok_or_else(|| wrong(formats))?;
    if found.is_empty() {
        return Err(wrong("there are no pictures in it"));
    }
    for picture in &mut found {
        if picture.texts.is_empty() {
            return Err(wrong(&format!("picture {} has no text", picture.id)));
        }
        picture.path = find(images, &picture.path).ok_or_else(|| {
            let shown = picture.path.display();
            Error::Input { reason: format!("{shown} is not in the folder {}", base_name(images)) }
        })?;
    }
    Ok(found)
}

/// A picture by its path, or by its name alone.
fn find(images: &Path, path: &Path) -> Option<PathBuf> {
    let name = Path::new(path.file_name()?);
    [path, name].into_iter().map(|path| images.join(path)).find(|path| path.is_file())
}

fn text(value: &Value) -> Option<String> {
    Some(value.as_str()?.trim().to_string()).filter(|text| !text.is_empty())
}

fn coco(images: &[Value], annotations: &[Value]) -> Option<Vec<Annotated>> {
    let mut rows = HashMap::new();
    let mut found = Vec::with_capacity(images.len());
    for image in images {
        let id = image["id"].clone();
        // Files that list numbers alone are of COCO's validation pictures.
        let path = match (image["file_name"].as_str().or_else(|| image["image"].as_str()), id.as_u64()) {
            (Some(name), _) => name.into(),
            (None, Some(number)) => format!("COCO_val2014_{number:012}.jpg"),
            (None, None) => return None,
        };
        rows.insert(id.to_string(), found.len());
        found.push(Annotated { id, path: path.into(), texts: Vec::new() });
    }
    for annotation in annotations {
        let row = *rows.get(&annotation["image_id"].to_string())?;
        found[row].texts.push(text(&annotation["caption"])?);
    }
    Some(found)
}

fn karpathy(images: &[Value]) -> Option<Vec<Annotated>> {
    let mut found = Vec::new();
    for image in images.iter().filter(|image| image["split"] == "test") {
        let path = Path::new(image["filepath"].as_str().unwrap_or_default()).join(image["filename"].as_str()?);
        let id = [&image["cocoid"], &image["imgid"]].into_iter().find(|id| id.is_number())?.clone();
        let texts = image["sentences"].as_array()?.iter().map(|s| text(&s["raw"])).collect::<Option<_>>()?;
        found.push(Annotated { id, path, texts });
    }
    Some(found)
}

/// Several entries may be of one picture.
fn pairs(list: &[Value]) -> Option<Vec<Annotated>> {
    let mut rows: HashMap<String, usize> = HashMap::new();
    let mut found: Vec<Annotated> = Vec::new();
    for entry in list {
        let path = entry["image"].as_str()?;
        let texts: Vec<String> = match entry["caption"].as_array() {
            Some(texts) => texts.iter().map(text).collect::<Option<_>>()?,
            None => vec![text(&entry["caption"])?],
        };
        let row = *rows.entry(path.into()).or_insert(found.len());
        if row == found.len() {
            let id = [&entry["image_id"], &entry["id"]].into_iter().find(|id| !id.is_null()).cloned();
            found.push(Annotated { id: id.unwrap_or_else(|| path.into()), path: path.into(), texts: Vec::new() });
        }
        found[row].texts.extend(texts);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_say_the_same() {
        let read = |json: Value| match (json["images"].as_array(), json["annotations"].as_array(), json.as_array()) {
            (Some(all), Some(annotations), _) => coco(all, annotations),
            (Some(all), None, _) => karpathy(all),
            (_, _, Some(list)) => pairs(list),
            _ => None,
        };
        let expected = Some(vec![Annotated {
            id: 7.into(),
            path: "val2014/a.jpg".into(),
            texts: vec!["a cat".into(), "A cat.".into()],
        }]);
        assert_eq!(
            read(serde_json::json!({ "images": [{ "id": 7, "file_name": "val2014/a.jpg" }],
                "annotations": [{ "image_id": 7, "caption": "a cat" }, { "image_id": 7, "caption": "A cat.\n" }] })),
            expected
        );
        assert_eq!(
            read(serde_json::json!({ "images": [
                { "split": "train", "filename": "b.jpg", "cocoid": 1, "sentences": [] },
                { "split": "test", "filepath": "val2014", "filename": "a.jpg", "cocoid": 7, "imgid": 0,
                  "sentences": [{ "raw": "a cat" }, { "raw": "A cat." }] }] })),
            expected
        );
        assert_eq!(
            read(serde_json::json!([{ "image": "val2014/a.jpg", "image_id": 7, "caption": "a cat" },
                { "image": "val2014/a.jpg", "caption": ["A cat."] }])),
            expected
        );
        assert_eq!(read(serde_json::json!({ "images": [{ "id": "x" }], "annotations": [] })), None);
        assert_eq!(read(serde_json::json!([{ "image": 3 }])), None);
    }
}
