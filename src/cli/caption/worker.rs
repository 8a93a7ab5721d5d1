//! `qllama caption - --json`: a worker that other programs drive by lines of JSON, in and out.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qllama::{Error, Generation, Result};
use serde_json::{Map, Value, json};

use super::engine::{Engine, Output, Texts};
use crate::common::Common;
use crate::many::list::{Listed, Place};
use crate::many::read::{Pictures, Preparation};
use crate::many::stop;
use crate::out::{self, say};

/// Requests that wait for a reader; then the pipe fills, and whoever writes into it waits.
const WAITING: usize = 16;
/// Bytes of a line, at most.
const MAX_LINE: u64 = 1 << 30;

pub fn run(common: &Common, ignore_orientation: bool, texts: Texts) -> Result<ExitCode> {
    let opened = common.open()?;
    opened.tokenizer()?;
    let (sender, list) = sync_channel(WAITING);
    std::thread::spawn(move || read_lines(BufReader::new(std::io::stdin()), &sender));
    let preparation = Preparation { preprocessor: *opened.preprocessor(), ignore_orientation };
    let stop = stop::asked();
    let mut engine = Engine { pictures: Pictures::start(list, preparation), output: Answers, stop: stop.clone() };
    engine.run(opened, texts)?;
    Ok(if stop.load(Ordering::Relaxed) { ExitCode::from(stop::INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Sends on the requests of all lines, bad ones too, until nobody wants more.
fn read_lines(mut input: impl BufRead, sender: &SyncSender<Listed>) {
    let mut number = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        number += 1;
        let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line);
        let request = match read {
            Ok(0) => return,
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") => {
                if input.skip_until(b'\n').is_err() {
                    return;
                }
                bad(number, Value::Null, &format!("expected at most {MAX_LINE} bytes"))
            }
            Ok(_) => request(number, &line),
            Err(e) => {
                // There is no line to answer.
                out::note(format_args!("qllama: standard input: {e} [E_IO]"));
                return;
            }
        };
        if sender.send(request).is_err() {
            return;
        }
    }
}

fn request(number: usize, line: &[u8]) -> Listed {
    let mut object: Map<String, Value> = match serde_json::from_slice(line) {
        Ok(object) => object,
        Err(e) => return bad(number, Value::Null, &format!("expected an object of JSON: {e}")),
    };
    let id = object.remove("id").unwrap_or_default();
    let (name, place) = match (object.remove("path"), object.remove("base64")) {
        (Some(Value::String(path)), None) => (path.clone(), Place::File(PathBuf::from(path))),
        (None, Some(Value::String(text))) => match STANDARD.decode(text.trim()) {
            Ok(bytes) => (format!("line {number}"), Place::Bytes(bytes.into())),
            Err(e) => return bad(number, id, &format!("base64: {e}")),
        },
        _ => return bad(number, id, "expected \"path\" or \"base64\", one of them, with a text"),
    };
    Listed { name, place: Ok(place), original: None, request: Some((id, Instant::now())) }
}

fn bad(number: usize, id: Value, reason: &str) -> Listed {
    let name = format!("line {number}");
    let place = Err(Error::Input { reason: format!("{name}: {reason}") });
    Listed { name, place, original: None, request: Some((id, Instant::now())) }
}

/// Answers go out as they are there.
struct Answers;

impl Output for Answers {
    fn take(&mut self, _: usize, listed: Listed, result: Result<Generation>) -> Result<()> {
        let (id, since) = listed.request.expect("a worker's list has requests");
        let answer = match result {
            Ok(Generation { text, ids, .. }) => {
                let seconds = (since.elapsed().as_secs_f64() * 1e6).round() / 1e6;
                json!({ "id": id, "text": text.unwrap_or_default(), "ids": ids, "seconds": seconds })
            }
            Err(error) => json!({ "id": id, "error": error.to_string(), "code": error.code() }),
        };
        say!("{answer}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_are_answered_and_the_next_goes_on() {
        let lines = b"\n{\"id\": 1, \"path\": \"a.png\"}\nhello\n{\"id\": [2]}\n{\"id\": 3, \"base64\": \"?\"}\r\n\
            {\"id\": 4, \"path\": \"a\", \"base64\": \"\"}\n{\"id\": 5, \"path\": 6}\n{\"path\": \"b.png\"}\n\
            {\"id\": \"last\", \"base64\": \"AAEC\"}";
        let (sender, list) = sync_channel(WAITING);
        read_lines(&lines[..], &sender);
        drop(sender);
        let found: Vec<(Value, Result<Place>)> = list.iter().map(|l| (l.request.unwrap().0, l.place)).collect();
        let ids: Vec<Value> = found.iter().map(|(id, _)| id.clone()).collect();
        assert_eq!(ids, [json!(1), json!(null), json!([2]), json!(3), json!(4), json!(5), json!(null), json!("last")]);
        let code = |place: &Result<Place>| place.as_ref().map_or_else(Error::code, |_| "ok");
        let codes: Vec<&str> = found.iter().map(|(_, place)| code(place)).collect();
        assert_eq!(codes, ["ok", "E_INPUT", "E_INPUT", "E_INPUT", "E_INPUT", "E_INPUT", "ok", "ok"]);
        assert!(found[1].1.as_ref().unwrap_err().to_string().starts_with("line 3: "));
        assert!(matches!(&found[7].1, Ok(Place::Bytes(bytes)) if bytes[..] == [0, 1, 2]));
    }
}
