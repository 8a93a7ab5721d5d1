//! What the hub says that a file's bytes are: SHA-256 of large ones, Git's own digest of small ones.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A digest that is being made.
pub enum Digest {
    Sha256(Sha256),
    /// SHA-1 of `blob LENGTH`, a zero and the bytes.
    Git(Sha1),
}

impl Digest {
    /// By the expected digest's length; `None` for what is neither.
    pub fn like(expected: &str, size: u64) -> Option<Digest> {
        let hex = expected.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match expected.len() {
            64 if hex => Some(Digest::Sha256(Sha256::new())),
            40 if hex => Some(Digest::Git(Sha1::new().chain_update(format!("blob {size}\0")))),
            _ => None,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Digest::Sha256(digest) => digest.update(bytes),
            Digest::Git(digest) => digest.update(bytes),
        }
    }

    pub fn finish(self) -> String {
        let bytes = match self {
            Digest::Sha256(digest) => digest.finalize().to_vec(),
            Digest::Git(digest) => digest.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
