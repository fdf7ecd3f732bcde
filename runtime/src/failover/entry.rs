//! The shape of a failed record, wherever it is kept: a line of JSON.
//!
//! Pure. Called by the drivers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Failed;

/// A failed record as it is written.
#[derive(Serialize)]
struct Entry<'a> {
    when: String,
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    partition: &'a str,
    position: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record_base64: Option<String>,
}

/// The records as lines of JSON: `record` where it is text, else `record_base64`.
pub(super) fn lines(failed: &[Failed<'_>]) -> Vec<u8> {
    let mut lines = Vec::new();
    for failed in failed {
        let text = std::str::from_utf8(failed.record).ok();
        let entry = Entry {
            when: humantime::format_rfc3339_millis(failed.when).to_string(),
            stage: failed.stage,
            plugin: failed.plugin.map(|(name, _)| name),
            digest: failed.plugin.map(|(_, digest)| digest),
            partition: failed.partition,
            position: failed.position,
            reason: failed.reason,
            record: text,
            record_base64: text.is_none().then(|| STANDARD.encode(failed.record)),
        };
        serde_json::to_writer(&mut lines, &entry).expect("writing to memory does not fail");
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    pub(in crate::failover) fn failed(record: &[u8]) -> Failed<'_> {
        Failed {
            when: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            stage: "format",
            plugin: Some(("p", "sha256:00")),
            partition: "in.ndjson",
            position: 7,
            reason: "no",
            record,
        }
    }

    #[test]
    fn a_line_has_all_that_is_needed_to_replay() {
        let line = lines(&[failed(b"{\"a\":1}")]);
        assert_eq!(
            std::str::from_utf8(&line).unwrap(),
            r#"{"when":"1970-01-01T00:00:01.500Z","stage":"format","plugin":"p","digest":"sha256:00","partition":"in.ndjson","position":7,"reason":"no","record":"{\"a\":1}"}"#
                .to_owned()
                + "\n"
        );
        let line = lines(&[failed(b"\xff")]);
        assert!(
            std::str::from_utf8(&line)
                .unwrap()
                .contains(r#""record_base64":"/w==""#)
        );
    }
}
