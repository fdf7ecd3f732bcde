//! The keys that say how records become messages; the same where Wirefall dials and where it listens.
//!
//! Owns their types, their defaults and their check. Pure. Called by the checks of both forms.

use std::num::NonZeroUsize;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::driver::Problem;
use crate::sink::framing::{BatchBounds, Batching, Carrier, Framing};
use crate::units::{ByteSize, Span};

/// Largest message that may be set.
const FRAME_BYTES_MAX: u64 = 1 << 30;

/// Text or binary messages.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// Text messages; a record that is not UTF-8 is rejected.
    #[default]
    Text,
    /// Binary messages.
    Binary,
}

/// How many records share a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Frames {
    /// One record a message.
    #[default]
    Record,
    /// Records separated by newlines; a record with a newline is rejected.
    Ndjson,
    /// A JSON array of records; a record that is not JSON is rejected.
    JsonArray,
}

/// When a message of several records is closed, whichever comes first.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Batch {
    /// Most records in a message.
    records: NonZeroUsize,
    /// Most bytes in a message.
    bytes: ByteSize,
    /// Longest wait of the first record in a message.
    time: Span,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            records: NonZeroUsize::new(500).expect("500 is not zero"),
            bytes: ByteSize(64 << 10),
            time: flush(),
        }
    }
}

/// Default of `flush`: short enough to be live, long enough to fill a packet.
pub(super) fn flush() -> Span {
    Span(Duration::from_millis(10))
}

/// Default of `frame_max`.
pub(super) fn frame_max() -> ByteSize {
    ByteSize(16 << 20)
}

/// The keys of either form, as written. (Not flattened into the forms: serde and JSON Schema then no
/// longer know which keys are unknown.)
pub(super) struct FramingKeys {
    pub(super) format: Format,
    pub(super) framing: Frames,
    pub(super) batch: Option<Batch>,
    pub(super) envelope: bool,
    pub(super) frame_max: ByteSize,
}

impl FramingKeys {
    /// What they mean together; what is wrong goes to `problems`.
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> Framing {
        if self.framing == Frames::Record && self.batch.is_some() {
            problems.push(
                Problem::error("/batch", "`batch` means nothing with one record a message")
                    .help("set `framing: ndjson` or `framing: json-array`, or remove `batch`"),
            );
        }
        let batch = self.batch.unwrap_or_default();
        for (pointer, key, size) in [
            ("/batch/bytes", "batch.bytes", batch.bytes),
            ("/frame_max", "frame_max", self.frame_max),
        ] {
            if !(1..=FRAME_BYTES_MAX).contains(&size.0) {
                let message = format!("`{key}` must be from 1B to 1GiB");
                problems.push(Problem::error(pointer, message));
            }
        }
        let bounds = BatchBounds {
            records_max: batch.records.get(),
            bytes_max: batch.bytes.0 as usize,
            wait: batch.time.0,
        };
        Framing {
            carrier: match self.format {
                Format::Text => Carrier::Text,
                Format::Binary => Carrier::Binary,
            },
            batch: match self.framing {
                Frames::Record => Batching::Record,
                Frames::Ndjson => Batching::Ndjson(bounds),
                Frames::JsonArray => Batching::JsonArray(bounds),
            },
            envelope: self.envelope,
            frame_bytes_max: self.frame_max.0 as usize,
        }
    }
}
