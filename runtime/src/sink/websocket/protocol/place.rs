//! Places: a position as a text that peers hand back, and the frames that came since.
//!
//! Owns the text's form, an epoch in hexadecimal, a dot and a number, which only a sender looks into.

use serde::{Deserialize, Serialize};

use crate::journal::Position;

/// Longest text of a position.
const TEXT_BYTES_MAX: usize = 64;

/// How far a receiver has come: the last position that it was given, and the data frames since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As the sender gave it.
    pub position: String,
    /// Data frames that came after it.
    #[serde(default)]
    pub since: u64,
}

/// What a sender reads in a position that a peer hands back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// One of this numbering, kept or not.
    Position(Position),
    /// The same at the beginning of a frame that went out taken apart: each of its records in a frame of
    /// its own.
    Apart(Position),
    /// One of another epoch, or none at all.
    Foreign,
}

/// The text of a position.
pub(super) fn write(epoch: u64, position: Position) -> String {
    format!("{epoch:x}.{}", position.0)
}

/// Ends the text of a position at the beginning of a frame that goes out taken apart.
const APART: &str = ".a";

/// The text of a position whose frame goes out taken apart.
pub(super) fn write_apart(epoch: u64, position: Position) -> String {
    write(epoch, position) + APART
}

/// The text of an epoch.
pub(super) fn write_epoch(epoch: u64) -> String {
    format!("{epoch:x}")
}

/// What a text means in this epoch. Only what `write` or `write_apart` could have made is a position.
pub fn read(text: &str, epoch: u64) -> Told {
    let (text, told): (_, fn(Position) -> Told) = match text.strip_suffix(APART) {
        Some(text) => (text, Told::Apart),
        None => (text, Told::Position),
    };
    let number = text
        .split_once('.')
        .and_then(|(_, number)| number.parse().ok());
    match number.map(Position) {
        Some(position) if write(epoch, position) == text => told(position),
        _ => Told::Foreign,
    }
}

/// Whether a text has the form that any sender's positions, and names of cursors, have.
pub(super) fn is_text(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        for (text, told) in [
            ("5f3a9c.81220", Told::Position(Position(81_220))),
            ("5f3a9c.81220.a", Told::Apart(Position(81_220))),
            ("5f3a9c.81220.a.a", Told::Foreign),
            ("5f3a9c.81220.", Told::Foreign),
            ("5f3a9c.a", Told::Foreign),
            ("5f3a9c.0", Told::Position(Position(0))),
            (
                "5f3a9c.18446744073709551615",
                Told::Position(Position(u64::MAX)),
            ),
            ("5f3a9c.18446744073709551616", Told::Foreign),
            ("5f3a9c.007", Told::Foreign),
            ("5f3a9c.+7", Told::Foreign),
            ("05f3a9c.7", Told::Foreign),
            ("5F3A9C.7", Told::Foreign),
            ("5f3a9d.7", Told::Foreign),
            ("5f3a9c.7.7", Told::Foreign),
            ("5f3a9c", Told::Foreign),
            (".", Told::Foreign),
            ("", Told::Foreign),
        ] {
            assert_eq!(read(text, 0x5f_3a9c), told, "{text}");
        }
    }

    #[test]
    fn every_position_fits_its_bound() {
        assert!(is_text(&write_apart(u64::MAX, Position(u64::MAX))));
        for text in ["", "a b", "é", "a/b", &"a".repeat(65)] {
            assert!(!is_text(text), "{text}");
        }
    }
}
