//! The envelope: `{"id","ts","key","data"}` around a record.
//!
//! Pure. `data` is the record itself where it is JSON, else a JSON string of it.

use std::io::Write;

use serde::de::IgnoredAny;

use crate::record::{Batch, Outputs};

/// Bytes that an envelope and a JSON array add at most beside key and data.
pub(super) const ENVELOPE_BYTES: usize = 256;

/// How long a text is inside an envelope: as it is where it is JSON, else as a JSON string.
pub(super) fn in_envelope(text: &[u8]) -> usize {
    if serde_json::from_slice::<IgnoredAny>(text).is_ok() {
        return text.len();
    }
    let text = String::from_utf8_lossy(text);
    serde_json::to_string(&text).map_or(usize::MAX / 4, |string| string.len())
}

/// Writes `{"id","ts","key","data"}`. `id` is the record's place in the source, the same in every run
/// that reads it again; `data` is the record itself where it is JSON, else as a JSON string.
pub(super) fn wrap(into: &mut Vec<u8>, batch: &Batch, outputs: &Outputs, index: usize) {
    let input = outputs.sources[index] as usize;
    let place = batch.position_of(input);
    let nth = outputs.sources[..index]
        .iter()
        .rev()
        .take_while(|s| **s as usize == input)
        .count();
    let id = match nth {
        0 => format!("{}:{place}", batch.partition.name()),
        nth => format!("{}:{place}:{nth}", batch.partition.name()),
    };
    let key = outputs.key(batch, index);
    let record = outputs.payloads.get(index);
    let written = "writing to memory does not fail";
    into.extend_from_slice(b"{\"id\":");
    serde_json::to_writer(&mut *into, &id).expect(written);
    match batch.records.timestamp(input) {
        Some(micros) => write!(into, ",\"ts\":{micros}").expect(written),
        None => into.extend_from_slice(b",\"ts\":null"),
    }
    into.extend_from_slice(b",\"key\":");
    serde_json::to_writer(&mut *into, &key.map(String::from_utf8_lossy)).expect(written);
    into.extend_from_slice(b",\"data\":");
    if serde_json::from_slice::<IgnoredAny>(record).is_ok() {
        // Newlines between tokens are white space in JSON and would end a line of NDJSON.
        into.extend(
            record
                .iter()
                .map(|byte| if *byte == b'\n' { b' ' } else { *byte }),
        );
    } else {
        serde_json::to_writer(&mut *into, &String::from_utf8_lossy(record)).expect(written);
    }
    into.push(b'}');
}
