//! Bodies: which records a post has.
//!
//! Owns the types that are understood and the bounds of a record. Pure, and copies nothing. Called by
//! `serve`.

use bytes::Bytes;
use http::StatusCode;
use serde_json::value::RawValue;

/// Bounds of a post (I4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest body.
    pub(super) body_bytes_max: usize,
    /// Longest record.
    pub(super) record_bytes_max: usize,
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
            "application/x-ndjson" => Ok(Self::Lines),
            _ => Err(Unfit::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the Content-Type is one of application/json (a record, or an array of records), \
                 application/x-ndjson (a record a line), text/plain and application/octet-stream (a record)",
            )),
        }
    }

    /// The records of a body: one at least.
    pub(super) fn records(self, body: &Bytes, bounds: Bounds) -> Result<Vec<Bytes>, Unfit> {
        let records = match self {
            Self::Record => vec![body.clone()],
            Self::Json => json(body)?,
            Self::Lines => lines(body),
        };
        if records.is_empty() || body.is_empty() {
            return Err(Unfit::new(
                StatusCode::BAD_REQUEST,
                "there is no record in it",
            ));
        }
        let most = bounds.record_bytes_max;
        match records.iter().position(|record| record.len() > most) {
            None => Ok(records),
            Some(index) => Err(Unfit::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "record {index} has {} bytes, and may have {most} (`record_max`); none was taken",
                    records[index].len()
                ),
            )),
        }
    }
}

fn lines(body: &Bytes) -> Vec<Bytes> {
    let lines = body.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.filter(|line| !line.is_empty());
    lines.map(|line| body.slice_ref(line)).collect()
}

fn json(body: &Bytes) -> Result<Vec<Bytes>, Unfit> {
    let wrong = |error| {
        Unfit::new(
            StatusCode::BAD_REQUEST,
            format!("the body is no JSON: {error}"),
        )
    };
    let is_array = body.trim_ascii_start().first() == Some(&b'[');
    let records: Vec<&RawValue> = match is_array {
        true => serde_json::from_slice(body).map_err(wrong)?,
        false => vec![serde_json::from_slice(body).map_err(wrong)?],
    };
    let slice = |record: &RawValue| body.slice_ref(record.get().as_bytes());
    Ok(records.into_iter().map(slice).collect())
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
        let records = kind.records(&body, BOUNDS).map_err(status)?;
        let text = |record: &Bytes| String::from_utf8_lossy(record).into_owned();
        Ok(records.iter().map(text).collect())
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
