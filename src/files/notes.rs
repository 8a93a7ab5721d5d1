//! Small files that the engine keeps for itself from one run to the next: what it found out about adapters.

use crate::files::source::LocalFuture;

/// Files by plain names. Nothing depends on them: what cannot be read counts as missing, what cannot be written is lost.
pub trait Notes {
    fn read<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Option<Vec<u8>>>;

    fn write<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> LocalFuture<'a, ()>;
}

#[cfg(not(target_arch = "wasm32"))]
pub use folder::NotesFolder;

#[cfg(not(target_arch = "wasm32"))]
mod folder {
    use std::path::{Path, PathBuf};

    use etcetera::BaseStrategy;

    use super::{LocalFuture, Notes};

    /// A folder of notes, which is made when the first is written.
    pub struct NotesFolder(PathBuf);

    impl NotesFolder {
        pub fn new(folder: impl AsRef<Path>) -> NotesFolder {
            NotesFolder(folder.as_ref().into())
        }

        /// The folder `qllama` of the user's cache directory; none where there is no such directory.
        pub fn of_user() -> Option<NotesFolder> {
            let strategy = etcetera::choose_base_strategy().ok()?;
            Some(NotesFolder(strategy.cache_dir().join("qllama")))
        }

        /// Writes beside the file and renames, so that nobody reads half of one.
        fn replace(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
            std::fs::create_dir_all(&self.0)?;
            let new = self.0.join(format!("{name}.{}.new", std::process::id()));
            let written = std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, self.0.join(name)));
            if written.is_err() {
                let _ = std::fs::remove_file(&new);
            }
            written
        }
    }

    impl Notes for NotesFolder {
        fn read<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Option<Vec<u8>>> {
            Box::pin(std::future::ready(std::fs::read(self.0.join(name)).ok()))
        }

        fn write<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> LocalFuture<'a, ()> {
            let _ = self.replace(name, bytes);
            Box::pin(std::future::ready(()))
        }
    }
}
