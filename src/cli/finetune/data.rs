//! What `finetune` learns from: pictures with texts, in a folder or listed in a file.

use std::path::{Path, PathBuf};

use qllama::internals::printable;
use qllama::{Error, Result};

use crate::many::names::base_name;

/// A picture and what it is called.
#[derive(Debug, PartialEq)]
pub struct Pair {
    pub image: PathBuf,
    /// `None` where the model's own caption serves.
    pub text: Option<String>,
}

/// Endings of files that are taken for pictures.
const PICTURES: [&str; 5] = ["png", "jpg", "jpeg", "webp", "jfif"];

/// The pairs of `path`: a folder with `cat.png` and `cat.txt` beside each other, or a `.jsonl` or `.csv` with `image` and
/// `text`, whose paths count from the file's folder. With `texts_needed`, a picture without a text is left out and told of.
///
/// # Errors
/// `E_IO`; `E_INPUT` naming a line that is wrong, and where no pair is found.
pub fn read(path: &Path, texts_needed: bool) -> Result<Vec<Pair>> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let pairs = match &ending[..] {
        "jsonl" => of_json_lines(path)?,
        "csv" => of_table(path)?,
        _ if path.is_dir() => of_folder(path, texts_needed)?,
        _ => {
            let reason = "expected a folder of pictures with .txt files beside them, a .jsonl or a .csv file";
            return Err(Error::Io { file: base_name(path), reason: reason.into() });
        }
    };
    if pairs.is_empty() {
        let reason = "no picture with a text is in it: a text for cat.png stands in cat.txt beside it";
        return Err(Error::Input { reason: format!("{}: {reason}", base_name(path)) });
    }
    Ok(pairs)
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::Io { file: base_name(path), reason: e.to_string() })
}

fn of_folder(folder: &Path, texts_needed: bool) -> Result<Vec<Pair>> {
    let fail = |e: std::io::Error| Error::Io { file: base_name(folder), reason: e.to_string() };
    let mut pairs = Vec::new();
    let mut without = 0;
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(fail)?.map(|entry| Ok(entry.map_err(fail)?.path())).collect::<Result<_>>()?;
    paths.sort();
    for image in paths {
        let ending = image.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if !PICTURES.contains(&&ending[..]) {
            continue;
        }
        let text = match image.with_extension("txt") {
            file if file.is_file() => Some(clean(&read_text(&file)?, &base_name(&file))?),
            _ => None,
        };
        if text.is_none() && texts_needed {
            without += 1;
            continue;
        }
        pairs.push(Pair { image, text });
    }
    if without > 0 {
        eprintln!("qllama: note: {without} picture(s) of {} have no .txt file and are left out", base_name(folder));
    }
    Ok(pairs)
}

/// A text on one line, without space around it.
fn clean(text: &str, place: &str) -> Result<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return Err(Error::Input { reason: format!("{place}: the text is empty") });
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(Error::Input { reason: format!("{place}: the text has the control character {:?}", c) }),
        None => Ok(text),
    }
}

fn of_json_lines(path: &Path) -> Result<Vec<Pair>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let pair = |(number, line): (usize, &str)| {
        let place = format!("{}: line {}", base_name(path), number + 1);
        let fail = |reason: &str| Error::Input { reason: format!("{place}: {reason}") };
        let json: serde_json::Value = serde_json::from_str(line).map_err(|e| fail(&e.to_string()))?;
        let field = |name: &str| {
            let value = json.get(name).and_then(|value| value.as_str());
            value.ok_or_else(|| fail(&format!("expected an object with a text in \"{name}\"")))
        };
        Ok(Pair { image: folder.join(field("image")?), text: Some(clean(field("text")?, &place)?) })
    };
    lines.map(pair).collect()
}

fn of_table(path: &Path) -> Result<Vec<Pair>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let fail = |reason: String| Error::Input { reason: format!("{}: {reason}", base_name(path)) };
    let mut reader = csv::Reader::from_path(path).map_err(|e| fail(e.to_string()))?;
    let headers = reader.headers().map_err(|e| fail(e.to_string()))?.clone();
    let column = |name: &str| {
        let found = headers.iter().position(|header| header.trim() == name);
        found.ok_or_else(|| {
            fail(format!(
                "no column is called {name}: the first line is {}",
                printable(&headers.iter().collect::<Vec<_>>().join(","))
            ))
        })
    };
    let (image, text) = (column("image")?, column("text")?);
    let mut pairs = Vec::new();
    for (number, record) in reader.records().enumerate() {
        let record = record.map_err(|e| fail(e.to_string()))?;
        let place = format!("{}: row {}", base_name(path), number + 1);
        let field = |column: usize| record.get(column).unwrap_or_default();
        pairs.push(Pair { image: folder.join(field(image)), text: Some(clean(field(text), &place)?) });
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, text) in [("b.png", ""), ("b.txt", " a  bed\n"), ("a.JPG", ""), ("a.txt", "an ant"), ("c.webp", "")]
        {
            std::fs::write(at(name), text).unwrap();
        }
        let found = read(folder.path(), true).unwrap();
        let texts: Vec<_> = found.iter().map(|pair| pair.text.as_deref().unwrap()).collect();
        assert_eq!(texts, ["an ant", "a bed"]);
        assert_eq!(read(folder.path(), false).unwrap().len(), 3);

        std::fs::write(at("list.jsonl"), "{\"image\": \"b.png\", \"text\": \"a bed\"}\n\n").unwrap();
        std::fs::write(at("list.csv"), "text,image\n\"a bed\",b.png\n").unwrap();
        for list in ["list.jsonl", "list.csv"] {
            assert_eq!(read(&at(list), true).unwrap(), [Pair { image: at("b.png"), text: Some("a bed".into()) }]);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, text, named) in [
            ("a.jsonl", "{\"image\": \"b.png\"}\n", "line 1"),
            ("b.jsonl", "{\"image\": \"b.png\", \"text\": \" \"}\n", "empty"),
            ("c.jsonl", "[\n", "line 1"),
            ("d.jsonl", "{\"image\": \"b.png\", \"text\": \"a\\u0007b\"}\n", "control"),
            ("e.csv", "image,caption\nb.png,bed\n", "text"),
            ("f.csv", "image,text\n", "no picture"),
            ("g.png", "", "expected a folder"),
        ] {
            std::fs::write(at(name), text).unwrap();
            let error = read(&at(name), true).unwrap_err().to_string();
            assert!(error.contains(named), "{name}: {error}");
        }
        assert!(read(&at("none"), true).is_err());
    }
}
