//! Chunks for the tests of journals and of those who read them.

use super::{Chunk, Frame};

/// A chunk of these records, each in a frame of its own without a header.
pub fn chunk<R: AsRef<[u8]>>(records: impl IntoIterator<Item = R>) -> Chunk {
    let mut wire = Vec::new();
    let mut spans = Vec::new();
    for record in records {
        let start = wire.len() as u32;
        wire.extend_from_slice(record.as_ref());
        spans.push((start, wire.len() as u32));
    }
    let frames = spans.iter().enumerate().map(|(index, (start, end))| Frame {
        wire_end: *end,
        payload_start: *start,
        records_end: index as u32 + 1,
    });
    Chunk {
        frames: frames.collect(),
        wire: wire.into(),
        records: spans.into(),
        ..Chunk::default()
    }
}
