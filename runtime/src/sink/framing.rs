//! Framing: how outputs become frames.
//!
//! Owns the WebSocket frame header of the shared bytes, batch frames, the envelope, and the verdict on
//! what cannot be framed. Pure. Sinks choose a [`Framing`]; workers ask it for a verdict; the pipeline
//! drives one [`Framer`] before the journal.
//!
//! Frame layout: RFC 6455, section 5.2, final frames without a mask. A client masks when it writes.

use std::time::Duration;

use serde::de::IgnoredAny;

use crate::record::{Batch, Column, Outputs};

mod envelope;
mod framer;

use envelope::{ENVELOPE_BYTES, in_envelope};
pub use framer::Framer;

/// How outputs become frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// What carries a frame.
    pub carrier: Carrier,
    /// One record a frame, or several.
    pub batch: Batching,
    /// Wrap each record in `{"id","ts","key","data"}`.
    pub envelope: bool,
    /// Most payload bytes in a frame; a longer record is rejected.
    pub frame_bytes_max: usize,
}

/// How many of the largest frames the journal must take at least: while one waits for room, the other
/// is on its way.
const FRAMES_IN_JOURNAL: u64 = 2;

/// What carries a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A WebSocket text message: must be UTF-8.
    Text,
    /// A WebSocket binary message.
    Binary,
    /// A line of a file or of standard output: no header, a newline after each record.
    Line,
}

impl Carrier {
    /// What its frames are, in words: a journal that outlives a run remembers it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Text => "text messages",
            Self::Binary => "binary messages",
            Self::Line => "lines",
        }
    }

    /// The opcode of a frame; a line has none.
    pub fn opcode(self) -> Option<u8> {
        match self {
            Self::Text => Some(0x1),
            Self::Binary => Some(0x2),
            Self::Line => None,
        }
    }
}

/// How many records share a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// One record a frame.
    Record,
    /// Records separated by newlines.
    Ndjson(BatchBounds),
    /// A JSON array of records.
    JsonArray(BatchBounds),
}

/// When a batch frame is closed, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBounds {
    /// Most records.
    pub records_max: usize,
    /// Most payload bytes.
    pub bytes_max: usize,
    /// Longest wait of its first record.
    pub wait: Duration,
}

/// An output that cannot be framed, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unframeable {
    /// Index of the output.
    pub output: usize,
    /// Why, in a sentence that names the setting.
    pub reason: String,
    /// Whether it would fit if it were UTF-8.
    pub invalid_utf8: bool,
}

/// The bit of a frame that no other continues.
const FINAL: u8 = 0x80;

impl Framing {
    /// The same with frames that a journal of `bytes_max` bytes takes.
    #[must_use]
    pub fn in_journal(self, bytes_max: u64) -> Self {
        let frame_bytes_max = usize::try_from(bytes_max / FRAMES_IN_JOURNAL).unwrap_or(usize::MAX);
        Self {
            frame_bytes_max: self.frame_bytes_max.min(frame_bytes_max),
            ..self
        }
    }

    /// What of the `outputs` of `batch` cannot be framed. Usually nothing, and then each column is
    /// looked at once.
    pub fn check(&self, batch: &Batch, outputs: &Outputs) -> Vec<Unframeable> {
        let column = &outputs.payloads;
        let utf8 = (self.carrier == Carrier::Text || self.envelope) && !is_utf8(column);
        let newline = self.forbids_newlines() && memchr::memchr(b'\n', &column.bytes).is_some();
        // In an envelope a text that is no JSON becomes a string, each byte at most six.
        let growth = if self.envelope { 6 } else { 1 };
        let keys = outputs.keys.bytes.len() + batch.records.keys.bytes.len();
        let most = growth * (column.bytes.len() + keys) + ENVELOPE_BYTES;
        let long = most > self.frame_bytes_max;
        let json = matches!(self.batch, Batching::JsonArray(_)) && !self.envelope;
        if !(utf8 || newline || long || json) {
            return Vec::new();
        }
        (0..column.len())
            .filter_map(|output| {
                let key = outputs.key(batch, output).unwrap_or_default();
                let record = column.get(output);
                let (reason, invalid_utf8) = match self.too_long(record, key) {
                    Some(reason) => (reason, false),
                    None => match self.not_text(record) {
                        Some(reason) => (reason, true),
                        None => (self.not_one(record)?, false),
                    },
                };
                Some(Unframeable {
                    output,
                    reason,
                    invalid_utf8,
                })
            })
            .collect()
    }

    /// Whether a newline inside a record would end it.
    fn forbids_newlines(&self) -> bool {
        !self.envelope
            && (self.carrier == Carrier::Line || matches!(self.batch, Batching::Ndjson(_)))
    }

    /// Why a record does not fit a frame alone.
    fn too_long(&self, record: &[u8], key: &[u8]) -> Option<String> {
        let bytes = match self.envelope {
            true => in_envelope(record) + in_envelope(key) + ENVELOPE_BYTES,
            false => record.len() + key.len() + 2, // the journal keeps the key beside the frame
        };
        (bytes > self.frame_bytes_max).then(|| {
            format!(
                "the record of {} bytes does not fit a frame of {} bytes (`frame_max`, and half of \
                 `journal.bytes`)",
                record.len() + key.len(),
                self.frame_bytes_max
            )
        })
    }

    /// Why a record is no text, where it has to be.
    fn not_text(&self, record: &[u8]) -> Option<String> {
        if self.carrier != Carrier::Text && !self.envelope {
            return None;
        }
        let error = simdutf8::compat::from_utf8(record).err()?;
        Some(format!(
            "invalid UTF-8 at byte {} in a text frame (use `format: binary` for other bytes)",
            error.valid_up_to()
        ))
    }

    /// Why a record could not be told from its neighbours in the frame.
    fn not_one(&self, record: &[u8]) -> Option<String> {
        if self.forbids_newlines() && memchr::memchr(b'\n', record).is_some() {
            return Some("a newline inside a record, where newlines separate records".to_owned());
        }
        if matches!(self.batch, Batching::JsonArray(_))
            && !self.envelope
            && let Err(error) = serde_json::from_slice::<IgnoredAny>(record)
        {
            return Some(format!(
                "no JSON ({error}), so it cannot be in a JSON array"
            ));
        }
        None
    }
}

/// Whether every value of the column is UTF-8: one pass, then a look at each boundary.
fn is_utf8(column: &Column) -> bool {
    let continues = |end: &u32| {
        column
            .bytes
            .get(*end as usize)
            .is_some_and(|b| b & 0xC0 == 0x80)
    };
    simdutf8::basic::from_utf8(&column.bytes).is_ok() && !column.ends.iter().any(continues)
}

/// Writes the header of an unmasked, final frame: RFC 6455, section 5.2.
#[inline]
pub fn push_header(wire: &mut Vec<u8>, opcode: u8, payload_bytes: usize) {
    let opcode = FINAL | opcode;
    match payload_bytes {
        0..=125 => wire.extend_from_slice(&[opcode, payload_bytes as u8]),
        126..=65535 => {
            let length = (payload_bytes as u16).to_be_bytes();
            wire.extend_from_slice(&[opcode, 126, length[0], length[1]]);
        }
        _ => {
            wire.extend_from_slice(&[opcode, 127]);
            wire.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
