//! One segment as its readers see it: an open file and where in it positions are.
//!
//! Owns the sparse index, and reading by it. Never writes. The log tells it what is safe to be read; the
//! journal reads.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::folder::{File, read_full};
use super::format::{Head, RECORD_HEAD_BYTES, RecordHead, decode_record, decode_record_head};
use crate::checkpoint::{Checkpoint, Delta};
use crate::journal::{Chunk, Position};

/// Bytes between two places that the index knows: what a read looks through at most.
const INDEX_EVERY_BYTES: u64 = 32 << 10;
/// Bytes read at once.
const BLOCK_BYTES: u64 = 256 << 10;

/// What a segment is called.
pub fn name(sequence: u64) -> String {
    format!("{sequence:010}.segment")
}

/// The number of the segment that is called `name`.
pub fn sequence(name: &str) -> Option<u64> {
    name.strip_suffix(".segment")?.parse().ok()
}

/// A segment that can be read.
pub struct Segment {
    /// Its number.
    pub sequence: u64,
    /// The position of its first record.
    pub first: Position,
    /// What was settled before it.
    pub settled: Checkpoint,
    pub(super) file: Arc<dyn File>,
    head_bytes: u64,
    index: Mutex<Index>,
}

/// What is known of a segment without looking into it.
#[derive(Clone, Debug)]
struct Index {
    /// Positions and offsets of records, in order.
    places: Vec<(Position, u64)>,
    extent: Extent,
}

/// How far a segment reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The position after its last record.
    pub end: Position,
    /// The offset behind its last record.
    pub bytes: u64,
    /// When its newest record was appended, in milliseconds since the Unix epoch; 0 without one.
    pub newest_ms: u64,
}

/// Why a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The system refused.
    #[error("{0}")]
    Io(io::Error),
    /// There is no right record at this offset.
    #[error("the checksum at byte {offset} is wrong")]
    Damaged {
        /// Where.
        offset: u64,
    },
}

impl Segment {
    /// A segment whose records begin at offset `head_bytes`; none is known yet.
    pub fn new(head: Head, file: Arc<dyn File>, head_bytes: u64) -> Self {
        let first = head.first;
        Self {
            sequence: head.sequence,
            first,
            settled: head.checkpoint,
            file,
            head_bytes,
            index: Mutex::new(Index {
                places: Vec::new(),
                extent: Extent {
                    end: first,
                    bytes: head_bytes,
                    newest_ms: 0,
                },
            }),
        }
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.extent().bytes == self.head_bytes
    }

    /// Where its records begin.
    pub fn head_bytes(&self) -> u64 {
        self.head_bytes
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("nothing panics while it is held")
    }

    /// How far it reaches.
    pub fn extent(&self) -> Extent {
        self.index().extent
    }

    /// The record that follows is safe to be read.
    pub fn note(&self, first: Position, end: Position, bytes: u64, made_at_ms: u64) {
        let mut index = self.index();
        let offset = index.extent.bytes;
        let last = index.places.last();
        if last.is_none_or(|(_, last)| offset >= last + INDEX_EVERY_BYTES) {
            index.places.push((first, offset));
        }
        index.extent = Extent {
            end,
            bytes: offset + bytes,
            newest_ms: made_at_ms,
        };
    }

    /// The chunk that holds `from`, and those behind it that were read along.
    ///
    /// # Errors
    /// The file cannot be read, or does not hold what was written.
    ///
    /// # Panics
    /// If the segment does not reach over `from`.
    pub fn read(&self, from: Position) -> Result<Vec<Chunk>, Unreadable> {
        let (offset, extent) = {
            let index = self.index();
            let after = index.places.partition_point(|(first, _)| *first <= from);
            (index.places[after - 1].1, index.extent)
        };
        assert!(self.first <= from && from < extent.end, "it is looked up");
        let mut scan = Scan::new(self, offset, extent.bytes);
        loop {
            let head = scan.head().map_err(Unreadable::Io)?;
            let Some(head) = head.filter(|head| head.first <= from) else {
                return Err(Unreadable::Damaged { offset: scan.at });
            };
            if from < head.end() {
                break;
            }
            scan.skip(&head);
        }
        let mut chunks = Vec::new();
        while chunks.is_empty() || scan.has_next_at_hand() {
            match scan.record().map_err(Unreadable::Io)? {
                None => return Err(Unreadable::Damaged { offset: scan.at }),
                Some((chunk, _)) if chunk.frames.is_empty() => {}
                Some((chunk, _)) => chunks.push(chunk),
            }
        }
        Ok(chunks)
    }
}

/// Goes through the records of a segment.
pub struct Scan<'a> {
    file: &'a dyn File,
    sequence: u64,
    /// Offset of the next record.
    pub at: u64,
    end: u64,
    block: Bytes,
    block_at: u64,
}

impl<'a> Scan<'a> {
    /// From the record at `offset` to `end`.
    pub fn new(segment: &'a Segment, offset: u64, end: u64) -> Self {
        Self::of(&*segment.file, segment.sequence, offset, end)
    }

    /// The same, of a file.
    pub fn of(file: &'a dyn File, sequence: u64, offset: u64, end: u64) -> Self {
        Self {
            file,
            sequence,
            at: offset,
            end,
            block: Bytes::new(),
            block_at: 0,
        }
    }

    /// The next `count` bytes if the block has them.
    fn at_hand(&self, count: u64) -> Option<Bytes> {
        let start = usize::try_from(self.at.checked_sub(self.block_at)?).ok()?;
        let end = start.checked_add(usize::try_from(count).ok()?)?;
        (end <= self.block.len()).then(|| self.block.slice(start..end))
    }

    /// The next `count` bytes; `None` where the file or the scan ends before.
    fn peek(&mut self, count: u64) -> io::Result<Option<Bytes>> {
        if self.at + count > self.end {
            return Ok(None);
        }
        if let Some(bytes) = self.at_hand(count) {
            return Ok(Some(bytes));
        }
        let bytes = count.max(BLOCK_BYTES).min(self.end - self.at);
        let mut block = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        let read = read_full(self.file, &mut block, self.at)?;
        block.truncate(read);
        self.block = block.into();
        self.block_at = self.at;
        Ok(self.at_hand(count))
    }

    /// The head of the next record, which is not moved past; `None` where there is none.
    pub fn head(&mut self) -> io::Result<Option<RecordHead>> {
        let bytes = self.peek(RECORD_HEAD_BYTES as u64)?;
        let head = bytes.and_then(|bytes| decode_record_head(&bytes));
        Ok(head.filter(|head| self.at + head.bytes() <= self.end))
    }

    /// Passes over a record without looking into it.
    pub fn skip(&mut self, head: &RecordHead) {
        self.at += head.bytes();
    }

    /// The next record, checked; `None` where there is no right one.
    pub fn record(&mut self) -> io::Result<Option<(Chunk, Vec<Delta>)>> {
        let Some(head) = self.head()? else {
            return Ok(None);
        };
        let bytes = self.peek(head.bytes())?;
        let record = bytes.and_then(|bytes| decode_record(self.sequence, &bytes));
        if record.is_some() {
            self.at += head.bytes();
        }
        Ok(record)
    }

    /// Whether the next record can be had without reading.
    fn has_next_at_hand(&self) -> bool {
        let head = self.at_hand(RECORD_HEAD_BYTES as u64);
        let head = head.and_then(|bytes| decode_record_head(&bytes));
        head.is_some_and(|head| self.at_hand(head.bytes()).is_some())
    }
}
