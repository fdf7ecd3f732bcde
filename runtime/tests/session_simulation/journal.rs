//! What is carried: chunks of frames of records. A session knows their sizes and nothing else.

use std::sync::Arc;

use bytes::Bytes;
use wirefall::journal::{Chunk, Frame, Position};

/// Most records of a chunk.
const CHUNK_RECORDS_MAX: u64 = 50;
/// Bytes before each payload.
const HEADER_BYTES: u32 = 2;

/// Chunks of `records` records of up to `record_bytes_max` bytes, up to `frame_records_max` a frame.
pub fn journal(
    random: &mut fastrand::Rng,
    records: u64,
    frame_records_max: u64,
    record_bytes_max: u32,
) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut first = 0;
    while first < records {
        let in_chunk = random.u64(1..=(records - first).min(CHUNK_RECORDS_MAX));
        let mut frames = Vec::new();
        let mut spans = Vec::new();
        let mut wire = 0;
        while (spans.len() as u64) < in_chunk {
            let in_frame = random.u64(1..=frame_records_max.min(in_chunk - spans.len() as u64));
            wire += HEADER_BYTES;
            let payload_start = wire;
            for _ in 0..in_frame {
                let bytes = random.u32(1..=record_bytes_max);
                spans.push((wire, wire + bytes));
                wire += bytes;
            }
            frames.push(Frame {
                wire_end: wire,
                payload_start,
                records_end: spans.len() as u32,
            });
        }
        chunks.push(Chunk {
            first: Position(first),
            wire: Bytes::from(vec![0; wire as usize]),
            frames: frames.into(),
            records: Arc::from(spans),
            ..Chunk::default()
        });
        first += in_chunk;
    }
    chunks
}
