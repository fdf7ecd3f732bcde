//! The journal: formatted frames in order, read by cursors.
//!
//! Owns positions, retention and back-pressure. Never looks into a record. The pipeline appends,
//! sinks read and pin; a file a backend (`memory`, `disk`; Kafka fits the same [`Journal`]).
//!
//! A chunk holds frames ready for the wire, because a thousand readers share the same bytes. Records
//! keep their own spans inside it, so that one can be sent alone when a frame has to be taken apart.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::checkpoint::{Checkpoint, CheckpointError, Delta};
use crate::driver::BoxFuture;
use crate::record::Column;

pub mod cursors;
pub mod disk;
pub mod memory;
mod pins;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use cursors::Bookmark;

/// A place in the journal: how many records were appended before it. Opaque outside this module and
/// the session's arithmetic; peers are given it as a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position `records` further on.
    #[must_use]
    pub fn plus(self, records: u64) -> Self {
        Self(self.0 + records)
    }

    /// Records from `earlier` to here; 0 where `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One frame inside a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Exclusive end of the frame in [`Chunk::wire`]; it starts where the one before ends.
    pub wire_end: u32,
    /// Where its payload starts in the wire: past the header that an unmasked (server) frame has.
    pub payload_start: u32,
    /// Exclusive end of its records in [`Chunk::records`].
    pub records_end: u32,
}

/// Frames that were appended together. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Position of the first record.
    pub first: Position,
    /// The frames end to end, each with the header of an unmasked frame (none for plain sinks).
    pub wire: Bytes,
    /// The frames in order; never empty in an appended chunk.
    pub frames: Arc<[Frame]>,
    /// Where each record's own bytes are in the wire.
    pub records: Arc<[(u32, u32)]>,
    /// The key of each record, empty where it has none; absent where no record of the chunk has one.
    pub keys: Option<Arc<Column>>,
    /// When it was made, for retention by age and for latency.
    pub made_at: Option<Instant>,
}

impl Chunk {
    /// The position after the last record.
    pub fn end(&self) -> Position {
        self.first.plus(self.records.len() as u64)
    }

    /// The bytes of frame `index` in the wire, header included.
    pub fn frame_wire(&self, index: usize) -> Range<usize> {
        let start = if index == 0 {
            0
        } else {
            self.frames[index - 1].wire_end
        };
        start as usize..self.frames[index].wire_end as usize
    }

    /// The payload of frame `index`.
    pub fn frame_payload(&self, index: usize) -> &[u8] {
        let frame = self.frames[index];
        &self.wire[frame.payload_start as usize..frame.wire_end as usize]
    }

    /// The records of frame `index`, as indices into [`Chunk::records`].
    pub fn frame_records(&self, index: usize) -> Range<usize> {
        let start = if index == 0 {
            0
        } else {
            self.frames[index - 1].records_end
        };
        start as usize..self.frames[index].records_end as usize
    }

    /// The frame that holds the record at `position`, which must be inside the chunk.
    pub fn frame_at(&self, position: Position) -> usize {
        let record = position.since(self.first) as u32;
        self.frames
            .partition_point(|frame| frame.records_end <= record)
    }

    /// The bytes of record `index` (from 0 in this chunk), without frame or separator.
    pub fn record(&self, index: usize) -> &[u8] {
        let (start, end) = self.records[index];
        &self.wire[start as usize..end as usize]
    }

    /// The key of record `index` (from 0 in this chunk), if it has one.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        let key = self.keys.as_ref()?.get(index);
        (!key.is_empty()).then_some(key)
    }

    /// Memory that it holds.
    pub fn bytes(&self) -> u64 {
        let keys = self.keys.as_ref();
        let keys = keys.map_or(0, |keys| keys.bytes.len() + keys.ends.len() * 4);
        (self.wire.len() + self.frames.len() * 12 + self.records.len() * 8 + keys + 128) as u64
    }
}

/// What a reader finds at a position.
#[derive(Clone, Debug)]
pub enum Read {
    /// The chunk that holds the position (the position may be in its middle).
    Chunk(Chunk),
    /// Nothing there yet: wait for the watermark to pass the position.
    Wait,
    /// The position fell out of retention; the oldest kept is `tail`.
    Lost {
        /// The oldest position that can be read.
        tail: Position,
    },
}

/// How far the journal reaches; published on every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The oldest position that can be read.
    pub tail: Position,
    /// Readers see nothing at or above this: all below is as durable as the backend makes it.
    pub durable: Position,
    /// The position of the next append.
    pub head: Position,
    /// No append will come any more.
    pub closed: bool,
}

/// Why an append failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// One chunk is larger than all that the journal may keep.
    #[error("a chunk of {bytes} bytes does not fit a journal of {bytes_max} bytes")]
    TooLarge {
        /// Size of the chunk.
        bytes: u64,
        /// Bound of the journal.
        bytes_max: u64,
    },
    /// Appended after `close`.
    #[error("the journal is closed")]
    Closed,
    /// It cannot be opened.
    #[error("{path}: {what}\n  {help}")]
    Unusable {
        /// The folder.
        path: String,
        /// What happened.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// What was written is there no more as it was.
    #[error("{path}: {what}\n  {DAMAGED_HELP}")]
    Damaged {
        /// The folder.
        path: String,
        /// File, offset, and what is wrong there.
        what: String,
    },
    /// An append settles what was settled before: the engine's accounting is wrong.
    #[error("{0} (this is a defect of wirefall)")]
    Checkpoint(#[from] CheckpointError),
    /// The run is over, and not all could be made durable.
    #[error("{records} records could not be made durable: {why}")]
    Undurable {
        /// How many.
        records: u64,
        /// The system's last word.
        why: String,
    },
}

/// What to do about a damaged journal.
const DAMAGED_HELP: &str = "nothing of it was changed; restore the folder from a copy, or move it away to \
     begin a new journal: what only the old one had is not delivered then, and its readers are told that \
     they missed something";

/// An append-only log of frames, bounded by bytes and age.
pub trait Journal: Send + Sync {
    /// Appends a chunk (its `first` is set here) together with the checkpoint steps that it
    /// completes, atomically. Waits while a pin holds the space that it needs (back-pressure, I4).
    /// A chunk without frames only moves the checkpoint.
    fn append(
        &self,
        chunk: Chunk,
        settled: Vec<Delta>,
    ) -> BoxFuture<'_, Result<Position, JournalError>>;

    /// The chunk that holds `from`.
    fn read(&self, from: Position) -> Read;

    /// Tail, watermark and head, and a way to wait for them to change.
    fn marks(&self) -> watch::Receiver<Marks>;

    /// Bytes that it holds.
    fn bytes(&self) -> u64;

    /// Changes when positions could mean other records than before. A peer's position of another
    /// epoch is unknown.
    fn epoch(&self) -> u64;

    /// Keeps everything from `from` on until the pin is moved or dropped.
    fn pin(&self, from: Position) -> Cursor;

    /// What was last remembered under `name`, by this run or, where the journal survives, by an earlier
    /// one. The position may be out of retention by now, and after a crash it may be an older one; it is
    /// never beyond the head.
    fn remembered(&self, name: &str) -> Option<Bookmark>;

    /// All that is remembered, by name.
    fn bookmarks(&self) -> Vec<(String, Bookmark)>;

    /// Remembers a position, and whose it is, under a name that the caller has checked; a reader that
    /// comes back starts there. Cheap: it is written down soon, not now. At most
    /// [`cursors::CURSORS_MAX`] names are kept (I4); of those that do not stay, and of the owner that has
    /// most, the one that was unused for longest goes. Holds nothing back: that is a pin's work.
    fn remember(&self, name: &str, bookmark: Bookmark);

    /// Resolves when a bookmark that is remembered under this name, be it an older one, outlives a crash,
    /// where the journal does: it is written down now, not soon.
    fn bookmark_kept(&self, _name: &str) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Forgets what is remembered under `name`, at once, and tells whether there was something. Resolves
    /// when it stays forgotten after a crash. A pin that somebody has for that name is not touched.
    fn forget(&self, name: &str) -> BoxFuture<'_, bool>;

    /// No append will come any more: readers that reach the head are at the end.
    fn close(&self);

    /// Whether a record below the durable mark outlives a crash of the process.
    fn survives_crash(&self) -> bool;

    /// The source positions that are settled by what the journal holds: where sources are to go on.
    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::default()
    }

    /// The source positions of which it keeps nothing any more: what was settled before its oldest record.
    fn forgotten(&self) -> Checkpoint;

    /// Why it waits, if it does: a disk that is full or gives errors. It tries again by itself.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Why it cannot go on at all; the marks change when this does.
    fn failure(&self) -> Option<JournalError> {
        None
    }

    /// What was appended and is not durable, where a journal survives a crash: after a failed
    /// [`finish`](Self::finish) it is lost with the process.
    fn undurable(&self) -> Vec<Chunk> {
        Vec::new()
    }

    /// Makes all that was appended durable, and leaves the journal so that the next run finds it whole.
    /// Afterwards it keeps what it holds, whatever becomes of the pins. Errors if not all is durable.
    fn finish(&self) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Reads the journal in order from a position and waits at its end. For readers that hold nothing
/// back and take each chunk once: plain sinks.
pub struct Follower {
    journal: Arc<dyn Journal>,
    marks: watch::Receiver<Marks>,
    at: Position,
}

/// What a follower comes to.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The next chunk. The position asked for may be in its middle.
    Chunk(Chunk),
    /// Retention passed the follower; it goes on at the oldest kept.
    Lost {
        /// Where it goes on.
        tail: Position,
    },
    /// The journal is closed and read to its head.
    End,
}

impl Follower {
    /// Reads from `at` on.
    pub fn new(journal: Arc<dyn Journal>, at: Position) -> Self {
        Self {
            marks: journal.marks(),
            journal,
            at,
        }
    }

    /// Whether nothing is there to be read now.
    pub fn is_at_head(&self) -> bool {
        self.marks.borrow().durable <= self.at
    }

    /// The next chunk, waited for. Cancel-safe.
    pub async fn next(&mut self) -> Followed {
        loop {
            let marks = *self.marks.borrow_and_update();
            match self.journal.read(self.at) {
                Read::Chunk(chunk) => {
                    self.at = chunk.end();
                    return Followed::Chunk(chunk);
                }
                Read::Lost { tail } => {
                    self.at = tail;
                    return Followed::Lost { tail };
                }
                Read::Wait if marks.closed => return Followed::End,
                Read::Wait => {
                    if self.marks.changed().await.is_err() {
                        return Followed::End;
                    }
                }
            }
        }
    }
}

/// Tells the marks to those who wait for them, as they are while they are told: were they taken before,
/// what a slow thread tells could be older than what was told meanwhile, and who waits for more would never
/// hear of it. So whoever calls this holds neither the journal's state nor a borrow of its marks.
fn publish(told: &watch::Sender<Marks>, marks: impl FnOnce() -> Marks) {
    told.send_if_modified(|told| {
        let marks = marks();
        let changed = *told != marks;
        *told = marks;
        changed
    });
}

/// A pinned cursor: retention never passes it. Dropping it lets go.
pub struct Cursor {
    position: Position,
    moved: Box<dyn Fn(Option<Position>) + Send + Sync>,
}

impl Cursor {
    /// A cursor at `position` that reports its moves, and `None` when dropped. For backends.
    pub fn new(position: Position, moved: Box<dyn Fn(Option<Position>) + Send + Sync>) -> Self {
        Self { position, moved }
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Moves on; going back is ignored.
    pub fn advance(&mut self, to: Position) {
        if to > self.position {
            self.position = to;
            (self.moved)(Some(to));
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        (self.moved)(None);
    }
}
