//! Bodies: which records a post has.
//!
//! Owns the types that are understood, the bounds of a record, and records that are cut and not copied.
//! Pure. Called by `serve`; what it cut is handed through `desk` to the reader.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::StatusCode;
use serde::de::{Deserialize as _, Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Bounds of a post (I4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest body.
    pub(super) body_bytes_max: usize,
    /// Longest record.
    pub(super) record_bytes_max: usize,
}

/// The records of a body, which are where they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut {
    body: Bytes,
    /// Where those are that were not taken yet.
    records: VecDeque<Range<u32>>,
}

impl Cut {
    /// So many records are left in it.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The next record.
    pub(super) fn pop(&mut self) -> Option<&[u8]> {
        let Range { start, end } = self.records.pop_front()?;
        Some(&self.body[start as usize..end as usize])
    }

    /// Leaves out the first so many.
    pub(super) fn skip(&mut self, count: u64) {
        let count = usize::try_from(count).map_or(self.len(), |count| count.min(self.len()));
        self.records.drain(..count);
    }

    /// Bytes of the body.
    pub(super) fn bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// Bytes that are remembered beside the body.
    pub(super) fn bytes_beside(&self) -> u64 {
        (self.len() * size_of::<Range<u32>>()) as u64
    }
}

/// How a body holds its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is one.
    Record,
    /// A JSON array holds several; any other JSON is one.
    Json,
    /// One a line; empty lines are none.
    Lines,
}

/// Why a body has no records; an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) status: StatusCode,
    pub(super) words: String,
}

impl Unfit {
    fn new(status: StatusCode, words: impl Into<String>) -> Self {
        let words = words.into();
        Self { status, words }
    }
}

impl Kind {
    /// The kind that a Content-Type names.
    pub(super) fn of(content_type: Option<&str>) -> Result<Self, Unfit> {
        let name = content_type.unwrap_or_default();
        let name = name.split(';').next().unwrap_or_default().trim();
        match name.to_ascii_lowercase().as_str() {
            "text/plain" | "application/octet-stream" => Ok(Self::Record),
            "application/json" => Ok(Self::Json),
            "application/x-ndjson" | "application/ndjson" => Ok(Self::Lines),
            _ => Err(Unfit::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the Content-Type is one of application/json (a record, or an array of records), \
                 application/x-ndjson (a record a line), text/plain and application/octet-stream (a record)",
            )),
        }
    }

    /// The records of a body, which has 4 GiB at most: one at least.
    pub(super) fn cut(self, body: Bytes, bounds: Bounds) -> Result<Cut, Unfit> {
        // Places and not slices: of tiny records there are many, and what is remembered of them counts.
        let records = match self {
            Self::Record => vec![place(&body, &body)],
            Self::Json => json(&body)?,
            Self::Lines => lines(&body).map(|line| place(&body, line)).collect(),
        };
        if records.is_empty() || body.is_empty() {
            return Err(Unfit::new(
                StatusCode::BAD_REQUEST,
                "there is no record in it",
            ));
        }
        let most = bounds.record_bytes_max;
        if let Some(index) = records.iter().position(|record| record.len() > most) {
            return Err(Unfit::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "record {index} has {} bytes, and may have {most} (`record_max`); none was taken",
                    records[index].len()
                ),
            ));
        }
        Ok(Cut {
            body,
            records: records.into(),
        })
    }
}

/// Where a part of a body is.
fn place(body: &[u8], part: &[u8]) -> Range<u32> {
    let start = (part.as_ptr() as usize - body.as_ptr() as usize) as u32;
    start..start + part.len() as u32
}

fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = body.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty())
}

fn json(body: &[u8]) -> Result<Vec<Range<u32>>, Unfit> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let records = match body.trim_ascii_start().first() {
        Some(b'[') => json.deserialize_seq(Array(body)),
        _ => <&RawValue>::deserialize(&mut json)
            .map(|record| vec![place(body, record.get().as_bytes())]),
    };
    let records = records.and_then(|records| json.end().map(|()| records));
    records.map_err(|error| {
        let words = format!("the body is no JSON: {error}");
        Unfit::new(StatusCode::BAD_REQUEST, words)
    })
}

/// Where the values of an array are in the body.
struct Array<'a>(&'a [u8]);

impl<'a> Visitor<'a> for Array<'a> {
    type Value = Vec<Range<u32>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        let mut places = Vec::new();
        while let Some(value) = values.next_element::<&RawValue>()? {
            places.push(place(self.0, value.get().as_bytes()));
        }
        Ok(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        body_bytes_max: 100,
        record_bytes_max: 10,
    };

    fn cut(content_type: &str, body: &str) -> Result<Vec<String>, u16> {
        let status = |unfit: Unfit| unfit.status.as_u16();
        let kind = Kind::of(Some(content_type)).map_err(status)?;
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut cut = kind.cut(body, BOUNDS).map_err(status)?;
        let mut records = Vec::new();
        while let Some(record) = cut.pop() {
            records.push(String::from_utf8_lossy(record).into_owned());
        }
        Ok(records)
    }

    #[test]
    fn a_body_is_cut_as_its_type_says() {
        for (content_type, body, records) in [
            ("text/plain", "a\nb", vec!["a\nb"]),
            ("Text/Plain; charset=utf-8", " x", vec![" x"]),
            ("application/octet-stream", "a", vec!["a"]),
            ("application/json", " {\"a\":1} ", vec!["{\"a\":1}"]),
            ("application/json", "3", vec!["3"]),
            (
                "application/json",
                " [1, {\"a\":[2]}]",
                vec!["1", "{\"a\":[2]}"],
            ),
            ("application/x-ndjson", "a\r\n\n\r\nb", vec!["a", "b"]),
        ] {
            let records = records.into_iter().map(str::to_owned).collect();
            assert_eq!(
                cut(content_type, body),
                Ok(records),
                "{content_type} {body:?}"
            );
        }
    }

    #[test]
    fn what_was_taken_before_is_left_out() {
        let cut = |skipped| {
            let body = Bytes::from_static(b"a\nb\nc");
            let mut cut = Kind::Lines.cut(body, BOUNDS).unwrap();
            cut.skip(skipped);
            (cut.len(), cut.pop().map(<[u8]>::to_vec))
        };
        assert_eq!(cut(0), (3, Some(b"a".to_vec())));
        assert_eq!(cut(2), (1, Some(b"c".to_vec())));
        assert_eq!(cut(u64::MAX), (0, None));
    }

    #[test]
    fn what_is_no_record_is_refused_whole() {
        for (content_type, body, status) in [
            ("", "a", 415),
            ("text/html", "a", 415),
            ("text/plain", "", 400),
            ("application/json", "", 400),
            ("application/json", "[]", 400),
            ("application/json", "[1", 400),
            ("application/json", "{} {}", 400),
            ("application/x-ndjson", "\n\n", 400),
            ("application/x-ndjson", "a\n12345678901", 413),
            ("text/plain", "12345678901", 413),
        ] {
            assert_eq!(
                cut(content_type, body),
                Err(status),
                "{content_type} {body:?}"
            );
        }
        assert_eq!(Kind::of(None).unwrap_err().status.as_u16(), 415);
    }
}
