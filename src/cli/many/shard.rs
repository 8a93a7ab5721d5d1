//! Shards: tar files in WebDataset's layout, where members of one key (`0001.jpg`, `0001.txt`) belong together; and the
//! share of all pictures that one of several machines takes.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use qllama::{Error, Result};

use super::names::name_of;

/// The members of one key.
#[derive(Default)]
pub struct Sample {
    key: String,
    /// Of each member that is no text: name, and where its bytes are in the shard.
    pub members: Vec<Member>,
    /// What the member with the ending `txt` says.
    pub text: Option<String>,
}

pub struct Member {
    pub name: String,
    pub offset: u64,
    pub size: u64,
}

/// A text member above this size is no caption.
const MAX_TEXT: u64 = 1 << 20;

/// Tells of the samples of a shard, one by one, until `tell` wants no more: then `None`. Only headers and texts are read.
///
/// # Errors
/// `E_IO`; `E_TRUNCATED` where the shard is cut short and `E_HEADER` where it is none, behind all that was whole.
pub fn each_sample(path: &Path, tell: &mut dyn FnMut(Sample) -> Option<()>) -> Result<Option<()>> {
    let name = name_of(path);
    let fail = |e: std::io::Error| Error::System { file: name.clone(), cause: e.into() };
    let file = File::open(path).map_err(fail)?;
    let have = file.metadata().map_err(fail)?.len();
    let mut archive = tar::Archive::new(file);
    let mut sample = Sample::default();
    let mut end = 0;
    let mut wrong = None;
    for entry in archive.entries_with_seek().map_err(fail)? {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                wrong = Some(Error::Truncated { file: name.clone(), need: end.max(have) + 512, have });
                break;
            }
            Err(e) => {
                let reason = format!("expected a member of a tar file: {e}");
                wrong = Some(Error::Header { file: name.clone(), offset: end, reason });
                break;
            }
        };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        end = offset.saturating_add(size);
        if end > have {
            wrong = Some(Error::Truncated { file: name.clone(), need: end, have });
            break;
        }
        end = end.next_multiple_of(512);
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let member = name_of_member(&entry.path_bytes());
        let (key, ending) = key_and_ending(&member);
        if sample.key != key {
            let whole = std::mem::replace(&mut sample, Sample { key: key.into(), ..Default::default() });
            if tell(whole).is_none() {
                return Ok(None);
            }
        }
        if ending.eq_ignore_ascii_case("txt") && size <= MAX_TEXT {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(fail)?;
            sample.text = Some(String::from_utf8_lossy(&bytes).trim_end().to_string());
        } else {
            sample.members.push(Member { name: member, offset, size });
        }
    }
    let more = tell(sample);
    wrong.map_or(Ok(more), Err)
}

fn name_of_member(bytes: &[u8]) -> String {
    let mut name = String::new();
    for chunk in bytes.utf8_chunks() {
        name.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| name.push_str(&format!("\\x{byte:02X}")));
    }
    name
}

/// The key is all before the first dot of the last part of a name.
fn key_and_ending(name: &str) -> (&str, &str) {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].find('.') {
        Some(dot) => (&name[..start + dot], &name[start + dot + 1..]),
        None => (name, ""),
    }
}

/// Which of all pictures a machine takes: those whose name's hash leaves `index` when divided by `of`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share {
    index: u64,
    of: u64,
}

impl Share {
    /// All pictures.
    pub const ALL: Share = Share { index: 0, of: 1 };

    pub fn has(&self, name: &str) -> bool {
        hash(name) % self.of == self.index
    }
}

/// FNV-1a of the name's bytes, its bits mixed (splitmix64): the same on every machine.
fn hash(name: &str) -> u64 {
    let byte = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut h = name.bytes().fold(0xcbf2_9ce4_8422_2325, byte);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Share, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if index < of => Ok(Share { index, of }),
            _ => Err("expected I/N, as 0/8 for the first of eight, I below N".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_dot_of_the_last_part() {
        for (name, expected) in [
            ("a.b/0001.jpg", ("a.b/0001", "jpg")),
            ("0001.seg.png", ("0001", "seg.png")),
            ("0001", ("0001", "")),
            (".x", ("", "x")),
        ] {
            assert_eq!(key_and_ending(name), expected);
        }
    }

    #[test]
    fn shares_are_even_and_stay() {
        let names: Vec<String> = (0..8000).map(|i| format!("pictures/{i:06}.jpg")).collect();
        for name in &names {
            assert_eq!((0..8).filter(|&index| Share { index, of: 8 }.has(name)).count(), 1);
        }
        for index in 0..8 {
            let found = names.iter().filter(|name| Share { index, of: 8 }.has(name)).count();
            assert!((900..1100).contains(&found), "{found}");
        }
        // Job arrays that were started before an update go on with the same shares.
        assert_eq!(hash("pictures/cat.png"), 0xeb3a_b215_22ad_f1dc);
        assert_eq!("2/3".parse(), Ok(Share { index: 2, of: 3 }));
        for wrong in ["3/3", "1", "a/b", "-1/3", "1/0", ""] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
