//! What is made of random bytes: secrets, IDs, GUIDs; and the digest that is kept of a secret.
//!
//! Owns their spelling. Keeps nothing. Called by the keyring, and by servers for their tickets.

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::units::Secret;

/// What every secret begins with, so that scanners of repositories know one when they see it.
const SECRET_PREFIX: &str = "wf_";
/// Random bytes of a secret: 256 bits.
const SECRET_BYTES: usize = 32;
/// Letters and digits of an ID, without those that look alike.
const ID_LETTERS: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";
/// Letters of an ID: 50 bits.
const ID_CHARS: usize = 10;

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(io::Error::other)?;
    Ok(bytes)
}

/// A new secret of 256 random bits: `wf_` and 43 characters that headers, subprotocols and URLs allow.
///
/// # Errors
/// The system gives no random bytes.
pub fn secret() -> io::Result<Secret> {
    let bytes: [u8; SECRET_BYTES] = random()?;
    let text = URL_SAFE_NO_PAD.encode(bytes);
    Ok(Secret::new(format!("{SECRET_PREFIX}{text}")))
}

/// Whether a text looks like a secret, so that it can be told from a word in the wrong place.
pub fn looks_like_one(text: &str) -> bool {
    text.starts_with(SECRET_PREFIX)
}

/// A new ID: random too, because a counter would tell how many there are.
pub(super) fn id() -> io::Result<String> {
    let bytes: [u8; ID_CHARS] = random()?;
    let letters = bytes.map(|byte| char::from(ID_LETTERS[usize::from(byte) % ID_LETTERS.len()]));
    Ok(letters.iter().collect())
}

/// A new random UUID (RFC 9562, version 4).
pub(super) fn guid() -> io::Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

/// The SHA-256 of a secret. That one cannot be turned back into the other rests on the secret's 256
/// random bits; a slow hash is for what people think up (docs/adr).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a secret.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Compares in a time that does not tell where they differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("sha256:{}", URL_SAFE_NO_PAD.encode(self.0)))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text
            .strip_prefix("sha256:")
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok());
        let wrong = || de::Error::custom("a digest is `sha256:` and 32 bytes in base64url");
        bytes.map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_comes_back_from_its_text() {
        let digest = Digest::of("wf_a");
        let text = serde_json::to_string(&digest).unwrap();
        assert!(serde_json::from_str::<Digest>(&text).unwrap().is(&digest));
        assert!(!Digest::of("wf_b").is(&digest));
        for wrong in ["\"sha256:AAAA\"", "\"md5:AAAA\"", "7"] {
            assert!(serde_json::from_str::<Digest>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_random_has_the_shape_that_it_is_to_have() {
        let secret = secret().unwrap();
        assert_eq!(secret.reveal().len(), SECRET_PREFIX.len() + 43);
        assert!(looks_like_one(secret.reveal()));
        assert!(http::HeaderName::from_bytes(secret.reveal().as_bytes()).is_ok());
        assert_eq!(id().unwrap().len(), ID_CHARS);
        let guid = guid().unwrap();
        let groups: Vec<usize> = guid.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(guid.as_bytes()[14], b'4');
        assert!(matches!(guid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
