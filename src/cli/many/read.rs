//! Pictures read, decoded and made ready on other threads, while the model is busy with those before.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qllama::internals::decode;
use qllama::{Error, PixelValues, Preprocessor, Result};

use super::list::{Listed, Place};

/// A file above this size is no picture that anyone captions.
const MAX_BYTES: u64 = 1 << 30;

/// Pictures that wait to be taken, at most.
const AHEAD: usize = 32;

/// A picture that was read, or why not.
pub struct Ready {
    /// Its place in the list.
    pub number: usize,
    pub listed: Listed,
    pub pixels: Result<PixelValues>,
}

/// How pictures are made ready.
#[derive(Clone, Copy)]
pub struct Preparation {
    pub preprocessor: Preprocessor,
    pub ignore_orientation: bool,
}

/// Pictures as they become ready, in any order.
pub struct Pictures(Receiver<Ready>);

/// What the readers have.
pub enum Next {
    Ready(Box<Ready>),
    /// None is ready yet.
    NotYet,
    /// There are no more.
    End,
}

impl Pictures {
    /// Starts to read a list.
    pub fn start(list: Receiver<Listed>, preparation: Preparation) -> Pictures {
        let list = Arc::new(Mutex::new((0, list)));
        let (sender, ready) = sync_channel(AHEAD);
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
        for _ in 0..threads {
            let (list, sender) = (list.clone(), sender.clone());
            std::thread::spawn(move || {
                loop {
                    let (number, listed) = {
                        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
                        let Ok(listed) = list.1.recv() else { return };
                        list.0 += 1;
                        (list.0 - 1, listed)
                    };
                    let pixels = listed.place.clone().and_then(|place| preparation.prepare(&listed.name, &place));
                    if sender.send(Ready { number, listed, pixels }).is_err() {
                        return;
                    }
                }
            });
        }
        Pictures(ready)
    }

    /// The next one, waited for at most so long.
    pub fn next(&self, wait: Duration) -> Next {
        match self.0.recv_timeout(wait) {
            Ok(ready) => Next::Ready(Box::new(ready)),
            Err(RecvTimeoutError::Timeout) => Next::NotYet,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }
}

impl Preparation {
    fn prepare(&self, name: &str, place: &Place) -> Result<PixelValues> {
        match place {
            Place::File(path) => self.of_bytes(name, &read_file(name, path)?),
            Place::Piece { path, offset, size } => self.of_bytes(name, &read_piece(name, path, *offset, *size)?),
            Place::Bytes(bytes) => self.of_bytes(name, bytes),
        }
    }

    /// Decodes, turns and prepares the bytes of a picture.
    pub fn of_bytes(&self, name: &str, bytes: &[u8]) -> Result<PixelValues> {
        Ok(self.preprocessor.pixel_values(&decode(name, bytes, !self.ignore_orientation)?))
    }
}

fn failed(name: &str, error: std::io::Error) -> Error {
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file",
        std::io::ErrorKind::PermissionDenied => "permission to read it was refused",
        _ => return Error::System { file: name.into(), cause: error.into() },
    };
    Error::Io { file: name.into(), reason: reason.into() }
}

/// A whole file, which must not change its size meanwhile: half a picture has no caption.
fn read_file(name: &str, path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(|e| failed(name, e))?;
    let found = file.metadata().map_err(|e| failed(name, e))?;
    let too_large = || {
        let reason = format!("expected a picture of at most {MAX_BYTES} bytes");
        Error::Io { file: name.into(), reason }
    };
    if found.len() > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(found.len() as usize);
    // A pipe has no size, and ends where its writer ends.
    let most = if found.is_file() { found.len() } else { MAX_BYTES };
    (&mut file).take(most + 1).read_to_end(&mut bytes).map_err(|e| failed(name, e))?;
    if !found.is_file() {
        return if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) };
    }
    let now = file.metadata().map_err(|e| failed(name, e))?.len();
    if bytes.len() as u64 != found.len() || now != found.len() {
        let reason = "its size changed while it was read; caption it again when it is whole".into();
        return Err(Error::Io { file: name.into(), reason });
    }
    Ok(bytes)
}

fn read_piece(name: &str, path: &Path, offset: u64, size: u64) -> Result<Vec<u8>> {
    use std::io::{Seek, SeekFrom};
    if size > MAX_BYTES {
        let reason = format!("expected a picture of at most {MAX_BYTES} bytes, found {size}");
        return Err(Error::Io { file: name.into(), reason });
    }
    let mut file = File::open(path).map_err(|e| failed(name, e))?;
    let mut bytes = Vec::with_capacity(size as usize);
    let done = file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(size).read_to_end(&mut bytes));
    done.map_err(|e| failed(name, e))?;
    if bytes.len() as u64 != size {
        return Err(Error::Truncated { file: name.into(), need: size, have: bytes.len() as u64 });
    }
    Ok(bytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A file of the kernel's says that it is empty, and is not when it is read: as a file that grows meanwhile.
    #[test]
    fn a_file_that_grows_while_it_is_read_is_refused() {
        let path = Path::new("/proc/version");
        assert!(path.metadata().unwrap().is_file() && path.metadata().unwrap().len() == 0);
        let error = read_file("a.png", path).unwrap_err();
        let text = error.to_string();
        assert!(error.code() == "E_IO" && text.contains("a.png") && text.contains("its size changed"), "{text}");
    }

    /// A picture that another program is writing is read whole or not at all.
    #[test]
    fn what_is_read_is_a_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, vec![0; 1 << 16]).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = File::options().append(true).open(&path).unwrap();
                while !done.load(std::sync::atomic::Ordering::Relaxed) && file.metadata().unwrap().len() < 1 << 26 {
                    std::io::Write::write_all(&mut file, &[1; 4096]).unwrap();
                }
            });
            for _ in 0..50 {
                let (before, read) = (path.metadata().unwrap().len(), read_file("a.png", &path));
                let after = path.metadata().unwrap().len();
                if let Ok(bytes) = read {
                    assert!((before..=after).contains(&(bytes.len() as u64)), "{before} {} {after}", bytes.len());
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(read_file("a.png", &path).unwrap().len() as u64, path.metadata().unwrap().len());
    }
}
