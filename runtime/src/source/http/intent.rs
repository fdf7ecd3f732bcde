//! What a post with a key is about to become.
//!
//! Owns what a key is, and the arithmetic of how much of a post was taken. Pure. Called by `serve` and
//! `desk`, which make them, and by `keys` and `keys_file`, which keep them.

use sha2::{Digest as _, Sha256};

/// Longest key.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// A key, and what it was given to. Both are the first half of a SHA-256: nobody finds another text for
/// one of them, and what is kept of each is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: u128,
    /// Of the body and its type.
    pub(super) digest: u128,
}

impl Key {
    /// The key of a post.
    pub(super) fn new(key: &str, content_type: &str, body: &[u8]) -> Self {
        Self {
            name: digest(&[key.as_bytes()]),
            digest: digest(&[content_type.as_bytes(), &[0], body]),
        }
    }

    /// Whether a text can be a key.
    pub(super) fn is_one(text: &str) -> bool {
        let is_printable = |byte: u8| (b' '..=b'~').contains(&byte);
        (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_printable)
    }
}

fn digest(parts: &[&[u8]]) -> u128 {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part));
    let digest: [u8; 32] = digest.finalize().into();
    let (half, _) = digest.split_first_chunk().expect("32 is more than 16");
    u128::from_be_bytes(*half)
}

/// Positions `first..last` are the records of a post from its record `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) key: Key,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) from: u64,
    /// Of the whole post.
    pub(super) records: u64,
}

impl Intent {
    /// How many of the post's records the journal has once it is at `last`.
    pub(super) fn taken(&self) -> u64 {
        self.from + (self.last - self.first)
    }
}
