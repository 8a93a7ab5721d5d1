//! What is kept of a picture: its caption, or why it has none; as a line of JSON or of CSV.

use std::io::Read;

use qllama::{Error, Generation, Result};
use serde_json::{Value, json};

use crate::many::names::count;

/// What became of a picture.
pub struct Outcome {
    /// As it was given.
    pub name: String,
    /// Of a shard: the text member of the picture's key.
    pub original: Option<String>,
    pub result: Result<Generation>,
}

impl Outcome {
    /// `{"image", "text", "ids"}`, or `{"image", "error", "code"}`; `original` where a shard has a text.
    pub fn json(&self) -> Value {
        let mut object = match &self.result {
            Ok(Generation { text, ids, .. }) => {
                json!({ "image": self.name, "text": text.as_deref().unwrap_or_default(), "ids": ids })
            }
            Err(error) => json!({ "image": self.name, "error": error.to_string(), "code": error.code() }),
        };
        if let Some(original) = &self.original {
            object["original"] = original.as_str().into();
        }
        object
    }
}

/// A line of an output, read again.
#[cfg_attr(not(feature = "parquet"), allow(dead_code, reason = "only a file of columns takes all of them"))]
pub struct Record {
    pub image: String,
    /// The caption; none of a picture that failed.
    pub text: Option<String>,
    pub ids: Vec<u32>,
    pub original: Option<String>,
    pub error: Option<String>,
    pub code: Option<String>,
    /// The model that wrote it.
    pub model: String,
}

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Jsonl,
    Csv,
}

const COLUMNS: [&str; 6] = ["image", "text", "original", "error", "code", "model"];

impl Format {
    /// What stands before the first line.
    pub fn head(self) -> Vec<u8> {
        match self {
            Format::Jsonl => Vec::new(),
            Format::Csv => format!("{}\n", COLUMNS.join(",")).into_bytes(),
        }
    }

    pub fn line(self, outcome: &Outcome, model: &str) -> Vec<u8> {
        let mut object = outcome.json();
        object["model"] = model.into();
        match self {
            Format::Jsonl => format!("{object}\n").into_bytes(),
            Format::Csv => csv_line(COLUMNS.map(|column| object[column].as_str().unwrap_or_default())),
        }
    }

    /// The bytes of whole lines at the start of `bytes`.
    pub fn whole(self, bytes: &[u8]) -> usize {
        let mut quoted = false;
        let mut end = 0;
        for (i, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' if self == Format::Csv => quoted = !quoted,
                b'\n' if !quoted => end = i + 1,
                _ => {}
            }
        }
        end
    }

    /// Reads whole lines. `file` is for messages.
    ///
    /// # Errors
    /// `E_STATE` for what is no line of ours.
    pub fn read<'a>(self, file: String, lines: impl Read + 'a) -> impl Iterator<Item = Result<Record>> {
        let foreign = move |line: u64| Error::State {
            reason: format!(
                "{file}: line {} was not written by `qllama caption`; choose another file, or --overwrite",
                count(line as usize)
            ),
        };
        let records: Box<dyn Iterator<Item = (u64, Option<Record>)> + 'a> = match self {
            Format::Jsonl => Box::new(jsonl(lines)),
            Format::Csv => Box::new(csv(lines)),
        };
        records.map(move |(line, record)| record.ok_or_else(|| foreign(line)))
    }
}

fn csv_line(fields: [&str; 6]) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    let written = writer.write_record(fields).map_err(|e| e.to_string());
    written.and_then(|()| writer.into_inner().map_err(|e| e.to_string())).expect("memory takes every line")
}

fn jsonl(lines: impl Read) -> impl Iterator<Item = (u64, Option<Record>)> {
    let values = std::io::BufRead::lines(std::io::BufReader::new(lines));
    values.enumerate().map(|(i, line)| {
        let object = line.ok().and_then(|line| serde_json::from_str::<Value>(&line).ok());
        let record = object.and_then(|object| {
            let text = |name: &str| Some(object.get(name)?.as_str()?.to_string());
            let ids = object.get("ids").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let ids: Option<Vec<u32>> =
                ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
            let (image, model, ids) = (text("image")?, text("model")?, ids);
            let (caption, error, code) = (text("text"), text("error"), text("code"));
            let whole = caption.is_some() != error.is_some();
            let of = |ids| Record { image, text: caption, ids, original: text("original"), error, code, model };
            ids.filter(|_| whole).map(of)
        });
        (i as u64 + 1, record)
    })
}

fn csv(lines: impl Read) -> impl Iterator<Item = (u64, Option<Record>)> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(lines).into_records();
    let mut first = true;
    std::iter::from_fn(move || {
        loop {
            let record = reader.next()?;
            let position = record.as_ref().map_or_else(csv::Error::position, csv::StringRecord::position);
            let line = position.map_or(1, csv::Position::line);
            let fields: Option<[String; 6]> = record.ok().and_then(|record| {
                let fields: Vec<String> = record.iter().map(String::from).collect();
                fields.try_into().ok()
            });
            if std::mem::take(&mut first) {
                match fields {
                    Some(fields) if fields == COLUMNS => continue,
                    _ => return Some((line, None)),
                }
            }
            let record = fields.map(|[image, text, original, error, code, model]| {
                let given = |text: String| Some(text).filter(|text| !text.is_empty());
                let caption = code.is_empty().then_some(text);
                let (original, error, code) = (given(original), given(error), given(code));
                Record { image, text: caption, ids: Vec::new(), original, error, code, model }
            });
            return Some((line, record));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let of = |text: &str| Generation { text: Some(text.into()), ids: vec![5, 7], score: 0.0, end_id: None };
        let outcome = |name: &str, result| Outcome { name: name.into(), original: None, result };
        let mut all = vec![
            outcome("a/x.png", Ok(of("a \"quoted\", cat\nin two lines"))),
            outcome("b,\"x\".png", Err(Error::Image { file: "b".into(), reason: "no picture".into() })),
            outcome("c.png", Ok(of(""))),
        ];
        all[2].original = Some("what stood there".into());
        all
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for format in [Format::Jsonl, Format::Csv] {
            let mut bytes = format.head();
            let mut ends = vec![bytes.len()];
            for outcome in outcomes() {
                bytes.extend(format.line(&outcome, "m"));
                ends.push(bytes.len());
            }
            let records: Vec<Record> = format.read("f".into(), &bytes[..]).collect::<Result<_>>().unwrap();
            assert_eq!(records.len(), 3);
            assert_eq!(records[0].text.as_deref(), Some("a \"quoted\", cat\nin two lines"), "{format:?}");
            let failed = &records[1];
            assert_eq!((&*failed.image, failed.text.as_ref()), ("b,\"x\".png", None), "{format:?}");
            assert_eq!((failed.code.as_deref(), failed.error.as_deref()), (Some("E_IMAGE"), Some("b: no picture")));
            assert_eq!((records[2].text.as_deref(), &*records[2].model), (Some(""), "m"), "{format:?}");
            assert_eq!(records[2].original.as_deref(), Some("what stood there"));
            if format == Format::Jsonl {
                assert_eq!(records[0].ids, [5, 7]);
            }
            // Wherever a line is torn, what was whole before it stays.
            for cut in 0..=bytes.len() {
                let whole = ends.iter().rev().find(|&&end| end <= cut).copied().unwrap_or(0);
                assert_eq!(format.whole(&bytes[..cut]), whole, "{format:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn lines_of_others_are_refused() {
        let cases: [(Format, &str, &str); 6] = [
            (Format::Jsonl, "hello\n", "line 1"),
            (Format::Jsonl, "{\"image\":\"a\",\"text\":\"b\",\"model\":\"m\"}\n{}\n", "line 2"),
            (Format::Jsonl, "{\"image\":\"a\",\"text\":\"b\",\"ids\":[-1],\"model\":\"m\"}\n", "line 1"),
            (Format::Csv, "a,b\n", "line 1"),
            (Format::Csv, "image,text,original,error,code,model\na,b\n", "line 2"),
            (Format::Csv, "image,text,original,error,code,other\n", "line 1"),
        ];
        for (format, text, word) in cases {
            let error = format.read("f".into(), text.as_bytes()).find_map(Result::err).expect(text);
            assert!(error.code() == "E_STATE" && error.to_string().contains(word), "{text:?}: {error}");
        }
    }
}
