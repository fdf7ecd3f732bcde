//! Messages: what records one has.
//!
//! Owns the three ways in which records share a message. Pure, and copies nothing. Called by `intake`.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What a message holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Framing {
    /// One record.
    #[default]
    Record,
    /// A record a line; empty lines are none.
    Ndjson,
    /// A JSON array; each of its elements is a record.
    JsonArray,
}

/// The records of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// In order.
    pub(super) records: Vec<Bytes>,
    /// Empty lines, which are no records.
    pub(super) empty_lines: u64,
    /// It is not what the framing says: the whole message is the record, so that nothing is lost and
    /// whatever formats it can refuse it.
    pub(super) is_odd: bool,
}

impl Framing {
    /// Cuts a message.
    pub(super) fn split(self, message: &Bytes) -> Split {
        match self {
            Self::Record => Split {
                records: vec![message.clone()],
                ..Split::default()
            },
            Self::Ndjson => lines(message),
            Self::JsonArray => elements(message).unwrap_or_else(|| Split {
                records: vec![message.clone()],
                is_odd: true,
                ..Split::default()
            }),
        }
    }
}

fn lines(message: &Bytes) -> Split {
    let mut split = Split::default();
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', message).chain([message.len()]);
    for end in ends {
        let line = &message[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.is_empty() {
            // Nothing behind the last newline is no line at all.
            true => split.empty_lines += u64::from(end < message.len()),
            false => split.records.push(message.slice_ref(line)),
        }
        start = end + 1;
    }
    split
}

fn elements(message: &Bytes) -> Option<Split> {
    let elements: Vec<&RawValue> = serde_json::from_slice(message).ok()?;
    let element = |element: &RawValue| message.slice_ref(element.get().as_bytes());
    Some(Split {
        records: elements.into_iter().map(element).collect(),
        ..Split::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_as_its_framing_says() {
        for (framing, message, records, empty_lines, is_odd) in [
            (Framing::Record, "a\nb", vec!["a\nb"], 0, false),
            (Framing::Record, "", vec![""], 0, false),
            (Framing::Ndjson, "a\nb", vec!["a", "b"], 0, false),
            (Framing::Ndjson, "a\r\n\n\r\nb\n", vec!["a", "b"], 2, false),
            (Framing::Ndjson, "", vec![], 0, false),
            (
                Framing::JsonArray,
                r#" [{"a": 1}, "x,y" ,[2] ] "#,
                vec![r#"{"a": 1}"#, r#""x,y""#, "[2]"],
                0,
                false,
            ),
            (Framing::JsonArray, "[]", vec![], 0, false),
            (Framing::JsonArray, "{}", vec!["{}"], 0, true),
            (Framing::JsonArray, "[1,", vec!["[1,"], 0, true),
        ] {
            let split = framing.split(&Bytes::from_static(message.as_bytes()));
            let expected = Split {
                records: records.into_iter().map(Bytes::from).collect(),
                empty_lines,
                is_odd,
            };
            assert_eq!(split, expected, "{framing:?} {message:?}");
        }
    }

    #[test]
    fn a_message_that_is_no_text_is_no_array_and_is_kept() {
        let message = Bytes::from_static(b"[\xff]");
        let split = Framing::JsonArray.split(&message);
        assert!(split.is_odd);
        assert_eq!(split.records, [message]);
    }
}
