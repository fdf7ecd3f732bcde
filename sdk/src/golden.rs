//! The golden form: records and what became of them as lines of text.
//!
//! Owns reading and writing it, for the native run ([`testing`](crate::testing)) and for `wirefall
//! test`, which does the same with the component. A line of input is a record; one that is an object
//! with `$payload` (text) may have `$key`, `$timestamp` and `$attributes` beside. A line of expected
//! output is a frame; one with a key of its own is such an object too, and one that is not a line of
//! text is `{"$base64": …}`. Empty lines are no records.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;

use crate::attributes;

/// What a formatter made of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What it emitted, in order.
    pub outputs: Vec<Frame>,
    /// What it rejected: the record, counted from 0, and why.
    pub rejected: Vec<(usize, String)>,
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The record it came from, counted from 0.
    pub source: usize,
    /// Its key, where the formatter gave keys of its own.
    pub key: Option<Vec<u8>>,
    /// The frame.
    pub payload: Vec<u8>,
}

impl Run {
    /// The frames as text, for a comparison with what is expected.
    pub fn frames(&self) -> Vec<String> {
        let text = |frame: &Frame| String::from_utf8_lossy(&frame.payload).into_owned();
        self.outputs.iter().map(text).collect()
    }
}

/// The names of the golden cases in a folder.
pub fn cases(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = files
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".ndjson").map(str::to_owned))
        .filter(|name| !name.contains('.'))
        .collect();
    names.sort();
    names
}

/// The frames of a run as the lines of `NAME.expected.ndjson`.
pub fn expected(run: &Run) -> String {
    run.outputs.iter().fold(String::new(), |mut lines, frame| {
        let text = std::str::from_utf8(&frame.payload).ok();
        let line = text.filter(|text| !text.contains(['\n', '\r']) && !text.starts_with("{\"$"));
        let key = frame.key.as_deref().map(String::from_utf8_lossy);
        let _ = match (line, text, key) {
            (Some(line), _, None) => writeln!(lines, "{line}"),
            (_, Some(text), None) => writeln!(lines, "{}", serde_json::json!({"$payload": text})),
            (_, Some(text), Some(key)) => {
                writeln!(
                    lines,
                    "{}",
                    serde_json::json!({"$key": key, "$payload": text})
                )
            }
            (_, None, key) => {
                let base64 = base64(&frame.payload);
                let line = match key {
                    Some(key) => serde_json::json!({"$base64": base64, "$key": key}),
                    None => serde_json::json!({"$base64": base64}),
                };
                writeln!(lines, "{line}")
            }
        };
        lines
    })
}

/// The rejections of a run as the lines of `NAME.rejected.ndjson`.
pub fn rejected(run: &Run) -> String {
    run.rejected
        .iter()
        .map(|(record, reason)| {
            format!(
                "{}\n",
                serde_json::json!({"record": record, "reason": reason})
            )
        })
        .collect()
}

/// Input lines as the columns of a batch; ends are exclusive, an empty column is absent for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The records.
    pub payloads: Vec<u8>,
    /// See `payloads`.
    pub payload_ends: Vec<u32>,
    /// Their keys.
    pub keys: Vec<u8>,
    /// See `keys`.
    pub key_ends: Vec<u32>,
    /// Microseconds since the Unix epoch.
    pub timestamps: Vec<i64>,
    /// In the encoding of [`attributes`].
    pub attributes: Vec<u8>,
    /// See `attributes`.
    pub attribute_ends: Vec<u32>,
}

/// A line of input that is more than its payload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "$payload")]
    payload: String,
    #[serde(rename = "$key", default)]
    key: String,
    #[serde(rename = "$timestamp", default)]
    timestamp: i64,
    #[serde(rename = "$attributes", default)]
    attributes: BTreeMap<String, String>,
}

impl Input {
    /// Reads the lines of `NAME.ndjson`.
    ///
    /// # Errors
    /// A line that starts like an object with `$payload` and is none.
    pub fn read(input: &str) -> Result<Self, serde_json::Error> {
        let mut columns = Self::default();
        let mut plain = true;
        let lines = input.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in lines {
            let line = if line.starts_with("{\"$") {
                plain = false;
                serde_json::from_str(line)?
            } else {
                Line {
                    payload: line.to_owned(),
                    key: String::new(),
                    timestamp: 0,
                    attributes: BTreeMap::new(),
                }
            };
            columns.payloads.extend_from_slice(line.payload.as_bytes());
            columns.payload_ends.push(columns.payloads.len() as u32);
            columns.keys.extend_from_slice(line.key.as_bytes());
            columns.key_ends.push(columns.keys.len() as u32);
            columns.timestamps.push(line.timestamp);
            for (name, value) in line.attributes {
                attributes::encode(&mut columns.attributes, &name, value.as_bytes());
            }
            columns.attribute_ends.push(columns.attributes.len() as u32);
        }
        if plain {
            // As from a source that knows nothing but payloads.
            columns.key_ends.clear();
            columns.timestamps.clear();
            columns.attribute_ends.clear();
        }
        Ok(columns)
    }
}

/// Standard base64, for the few frames that are no text.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() {
                DIGITS[index as usize] as char
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(b"\xff\xfe"), "//4=");
    }
}
