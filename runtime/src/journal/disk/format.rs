//! The bytes of a segment: its head, and its records end to end.
//!
//! Owns the layout; docs/adr/0602 draws it. Pure: bytes in, values out, and nothing is believed that has
//! no right checksum. Called by the log, its recovery and the readers of segments.
//!
//! All numbers are little-endian. The checksum covers the number of the segment too, so that no record
//! counts in a file that it was not written to.

use std::sync::Arc;

use bytes::Bytes;

use crate::checkpoint::{Checkpoint, Delta};
use crate::journal::{Chunk, Frame, Position};
use crate::record::{Column, Partition};

/// What a segment begins with.
const MAGIC: &[u8; 8] = b"WIREFALL";
/// Version of this layout.
const VERSION: u32 = 1;
/// What every record begins with; what is found by it is checked.
pub const RECORD_MAGIC: [u8; 4] = *b"wfJ1";
/// Bytes of a segment's head before its body: magic, version, length, checksum.
pub const HEAD_BYTES: usize = 8 + 4 + 4 + 4;
/// Bytes of a record before its body.
pub const RECORD_HEAD_BYTES: usize = 60;
/// Longest head of a segment that is believed.
const HEAD_BYTES_MAX: usize = 256 << 20;

/// What the head of a segment says.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The life of the numbering.
    pub epoch: u64,
    /// Number of the segment, as in its name.
    pub sequence: u64,
    /// Position of its first record.
    pub first: Position,
    /// The segment before it; 0 where there was none.
    pub previous: u64,
    /// Where that one ends: what it holds behind counts for nothing.
    pub previous_bytes: u64,
    /// What was settled before this segment, so that those before it can go.
    pub checkpoint: Checkpoint,
}

impl Head {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for number in [
            self.epoch,
            self.sequence,
            self.first.0,
            self.previous,
            self.previous_bytes,
        ] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        let checkpoint = serde_json::to_vec(&self.checkpoint);
        body.extend(checkpoint.expect("names and numbers are JSON"));
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum(self.sequence, &body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

/// Why the bytes at the beginning of a file are no head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoHead {
    /// They are torn, or altered.
    Torn,
    /// They are a head of another version.
    Version(u32),
}

/// The length of the head that these first bytes begin.
///
/// # Errors
/// They begin no head.
pub fn head_bytes(start: &[u8]) -> Result<usize, NoHead> {
    let mut reader = Fields(start);
    if reader.take(8) != Some(MAGIC) {
        return Err(NoHead::Torn);
    }
    match reader.u32() {
        Some(VERSION) => {}
        Some(version) => return Err(NoHead::Version(version)),
        None => return Err(NoHead::Torn),
    }
    let body = reader.u32().ok_or(NoHead::Torn)? as usize;
    match HEAD_BYTES + body {
        bytes if bytes <= HEAD_BYTES_MAX => Ok(bytes),
        _ => Err(NoHead::Torn),
    }
}

/// The head of segment `sequence`, of all of its bytes.
///
/// # Errors
/// They are none.
pub fn decode_head(sequence: u64, bytes: &[u8]) -> Result<Head, NoHead> {
    let mut reader = Fields(bytes.get(16..).ok_or(NoHead::Torn)?);
    let sum = reader.u32();
    let body = reader.0;
    if sum != Some(checksum(sequence, body)) {
        return Err(NoHead::Torn);
    }
    let mut number = || reader.u64().ok_or(NoHead::Torn);
    let (epoch, named, first) = (number()?, number()?, number()?);
    let (previous, previous_bytes) = (number()?, number()?);
    if named != sequence {
        return Err(NoHead::Torn);
    }
    Ok(Head {
        epoch,
        sequence,
        first: Position(first),
        previous,
        previous_bytes,
        checkpoint: serde_json::from_slice(reader.0).map_err(|_| NoHead::Torn)?,
    })
}

/// What stands before the body of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    body_bytes: u32,
    sum: u32,
    /// How far its segment was synced when this was written: nothing below can be torn by a crash.
    pub synced_bytes: u64,
    /// Position of its first record.
    pub first: Position,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub made_at_ms: u64,
    records: u32,
    frames: u32,
    wire_bytes: u32,
    key_bytes: u32,
    keys: u32,
    delta_bytes: u32,
}

impl RecordHead {
    /// Bytes of the whole record.
    pub fn bytes(&self) -> u64 {
        RECORD_HEAD_BYTES as u64 + u64::from(self.body_bytes)
    }

    /// The position after its last record.
    pub fn end(&self) -> Position {
        self.first.plus(self.records.into())
    }
}

/// Bytes that a chunk and its deltas take in a segment.
pub fn record_bytes(chunk: &Chunk, settled: &[Delta]) -> u64 {
    let keys = chunk.keys.as_ref();
    let keys = keys.map_or(0, |keys| keys.bytes.len() + keys.ends.len() * 4);
    let deltas: usize = settled.iter().map(delta_bytes).sum();
    let tables = chunk.frames.len() * 12 + chunk.records.len() * 8;
    (RECORD_HEAD_BYTES + tables + keys + deltas + chunk.wire.len()) as u64
}

fn delta_bytes(delta: &Delta) -> usize {
    4 + delta.partition.name().len() + 16
}

/// Adds a record to `out`.
pub fn encode_record(
    out: &mut Vec<u8>,
    sequence: u64,
    synced_bytes: u64,
    made_at_ms: u64,
    chunk: &Chunk,
    settled: &[Delta],
) {
    let start = out.len();
    let keys = chunk.keys.as_deref();
    let delta_bytes: usize = settled.iter().map(delta_bytes).sum();
    let body = record_bytes(chunk, settled) as usize - RECORD_HEAD_BYTES;
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&(body as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]); // the checksum comes last
    for number in [synced_bytes, chunk.first.0, made_at_ms] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for count in [
        chunk.records.len(),
        chunk.frames.len(),
        chunk.wire.len(),
        keys.map_or(0, |keys| keys.bytes.len()),
        keys.map_or(0, |keys| keys.ends.len()),
        delta_bytes,
    ] {
        out.extend_from_slice(&(count as u32).to_le_bytes());
    }
    for frame in chunk.frames.iter() {
        for number in [frame.wire_end, frame.payload_start, frame.records_end] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    for (from, to) in chunk.records.iter() {
        out.extend_from_slice(&from.to_le_bytes());
        out.extend_from_slice(&to.to_le_bytes());
    }
    if let Some(keys) = keys {
        for end in &keys.ends {
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(&keys.bytes);
    }
    for delta in settled {
        let name = delta.partition.name().as_bytes();
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&delta.from.to_le_bytes());
        out.extend_from_slice(&delta.to.to_le_bytes());
    }
    out.extend_from_slice(&chunk.wire);
    debug_assert_eq!(out.len() - start, RECORD_HEAD_BYTES + body);
    let sum = checksum(sequence, &out[start + 12..]);
    out[start + 8..start + 12].copy_from_slice(&sum.to_le_bytes());
}

/// The head of a record, of its first [`RECORD_HEAD_BYTES`]; nothing is checked but its own numbers.
pub fn decode_record_head(bytes: &[u8]) -> Option<RecordHead> {
    let mut reader = Fields(bytes.get(..RECORD_HEAD_BYTES)?);
    if reader.take(4)? != RECORD_MAGIC {
        return None;
    }
    let head = RecordHead {
        body_bytes: reader.u32()?,
        sum: reader.u32()?,
        synced_bytes: reader.u64()?,
        first: Position(reader.u64()?),
        made_at_ms: reader.u64()?,
        records: reader.u32()?,
        frames: reader.u32()?,
        wire_bytes: reader.u32()?,
        key_bytes: reader.u32()?,
        keys: reader.u32()?,
        delta_bytes: reader.u32()?,
    };
    let tables = u64::from(head.frames) * 12 + u64::from(head.records) * 8;
    let keys = u64::from(head.keys) * 4 + u64::from(head.key_bytes);
    let rest = u64::from(head.delta_bytes) + u64::from(head.wire_bytes);
    (tables + keys + rest == u64::from(head.body_bytes)).then_some(head)
}

/// The record whose bytes these are; `None` unless the checksum is right.
pub fn decode_record(sequence: u64, bytes: &Bytes) -> Option<(Chunk, Vec<Delta>)> {
    let head = decode_record_head(bytes)?;
    if bytes.len() as u64 != head.bytes() || checksum(sequence, &bytes[12..]) != head.sum {
        return None;
    }
    let mut reader = Fields(&bytes[RECORD_HEAD_BYTES..]);
    let mut frames = Vec::with_capacity(head.frames as usize);
    for _ in 0..head.frames {
        frames.push(Frame {
            wire_end: reader.u32()?,
            payload_start: reader.u32()?,
            records_end: reader.u32()?,
        });
    }
    let mut records = Vec::with_capacity(head.records as usize);
    for _ in 0..head.records {
        records.push((reader.u32()?, reader.u32()?));
    }
    let mut keys = Column::default();
    for _ in 0..head.keys {
        keys.ends.push(reader.u32()?);
    }
    keys.bytes.extend(reader.take(head.key_bytes as usize)?);
    let mut deltas = Vec::new();
    let mut rest = Fields(reader.take(head.delta_bytes as usize)?);
    while !rest.0.is_empty() {
        let name = rest.u32()? as usize;
        let name = std::str::from_utf8(rest.take(name)?).ok()?;
        deltas.push(Delta {
            partition: Partition::new(name),
            from: rest.u64()?,
            to: rest.u64()?,
        });
    }
    let chunk = Chunk {
        first: head.first,
        wire: bytes.slice(bytes.len() - head.wire_bytes as usize..),
        frames: frames.into(),
        records: records.into(),
        keys: (!keys.is_empty()).then(|| Arc::new(keys)),
        made_at: None,
    };
    Some((chunk, deltas))
}

fn checksum(sequence: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Numbers and bytes, taken one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?.try_into().expect("four bytes");
        Some(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.take(8)?.try_into().expect("eight bytes");
        Some(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        Chunk {
            first: Position(7),
            wire: Bytes::from_static(b"..one..two"),
            frames: [(5, 2, 1), (10, 7, 2)]
                .map(|(wire_end, payload_start, records_end)| Frame {
                    wire_end,
                    payload_start,
                    records_end,
                })
                .into(),
            records: [(2, 5), (7, 10)].into(),
            keys: Some(Arc::new(["k", ""].into_iter().collect())),
            made_at: None,
        }
    }

    fn deltas() -> Vec<Delta> {
        vec![Delta {
            partition: Partition::new("a/ä"),
            from: 3,
            to: u64::MAX,
        }]
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for (chunk, deltas) in [
            (chunk(), deltas()),
            (
                Chunk {
                    keys: None,
                    ..chunk()
                },
                vec![],
            ),
            (
                Chunk {
                    first: Position(9),
                    ..Chunk::default()
                },
                deltas(),
            ),
        ] {
            let mut bytes = Vec::new();
            encode_record(&mut bytes, 4, 64, 1_700_000_000_000, &chunk, &deltas);
            assert_eq!(bytes.len() as u64, record_bytes(&chunk, &deltas));
            let (read, settled) = decode_record(4, &bytes.into()).unwrap();
            assert_eq!(settled, deltas);
            assert_eq!((read.first, read.end()), (chunk.first, chunk.end()));
            assert_eq!((read.wire, read.keys), (chunk.wire, chunk.keys));
            assert_eq!((read.frames, read.records), (chunk.frames, chunk.records));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, 4, 64, 1, &chunk(), &deltas());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(4, &flipped.into()).is_none(), "bit {bit}");
        }
        assert!(
            decode_record(5, &bytes.into()).is_none(),
            "it is another segment's"
        );
    }

    #[test]
    fn a_head_comes_back_as_it_was_and_no_bit_of_it_is_believed_without_its_checksum() {
        let mut checkpoint = Checkpoint::default();
        checkpoint.settle(&deltas()[0]).unwrap();
        let head = Head {
            epoch: 1,
            sequence: 2,
            first: Position(3),
            previous: 4,
            previous_bytes: 5,
            checkpoint,
        };
        let bytes = head.encode();
        assert_eq!(head_bytes(&bytes), Ok(bytes.len()));
        assert_eq!(decode_head(2, &bytes), Ok(head));
        assert_eq!(decode_head(3, &bytes), Err(NoHead::Torn));
        for bit in HEAD_BYTES * 8 - 32..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_head(2, &flipped), Err(NoHead::Torn), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(head_bytes(&newer), Err(NoHead::Version(9)));
    }
}
