//! The log: segments that are written at the end and dropped at the beginning.
//!
//! Owns what is written where, what of it is safe, and what happens after a failure. Blocking, and used
//! by one thread. It neither waits nor tries again by itself: the writer does. How it is found again
//! after a crash is in `recovery`.
//!
//! One rule for every failure of a write or a sync: the segment counts as far as it was safe, and what
//! is not safe is written again, from memory, into a new one. A sync that failed is never believed
//! later: the pages that it was about may be gone.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::folder::{Folder, write_full};
use super::format::{Head, encode_record, record_bytes};
use super::segment::{Segment, name};
use crate::checkpoint::{Checkpoint, Delta};
use crate::journal::{Chunk, Position};

/// Bytes that are encoded before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A segment is full from here on; a longer record is a segment of its own.
    pub segment_bytes: u64,
    /// Safe means synced. Otherwise what the kernel took counts as safe, and a crash of the machine may
    /// lose it.
    pub synced: bool,
}

/// One append: frames and the source positions that they settle.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The frames; `first` is set.
    pub chunk: Chunk,
    /// What they settle.
    pub settled: Vec<Delta>,
    /// When, in milliseconds since the Unix epoch.
    pub made_at_ms: u64,
}

impl Entry {
    /// Bytes that it takes in a segment.
    pub fn bytes(&self) -> u64 {
        record_bytes(&self.chunk, &self.settled)
    }
}

/// See the module.
pub struct Log {
    pub(super) folder: Arc<dyn Folder>,
    pub(super) rules: Rules,
    pub(super) epoch: u64,
    /// Oldest first; the last one is written to.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// The highest number that was ever tried.
    pub(super) sequence: u64,
    /// Where the next record goes in the last segment.
    pub(super) written_bytes: u64,
    /// How far the last segment is known to be on the disk.
    pub(super) synced_bytes: u64,
    /// What is settled by all that is safe.
    pub(super) checkpoint: Checkpoint,
    /// Written and not safe.
    unsafe_entries: VecDeque<Entry>,
    /// To be written.
    unwritten: VecDeque<Entry>,
    /// Bytes of these two.
    pending_bytes: u64,
    /// The last segment takes nothing more.
    broken: bool,
    /// After a failure: each entry is made safe by itself, so that a disk that has room for some of what
    /// waits takes that.
    is_careful: bool,
    /// Something that counts as safe could not be synced.
    is_doubtful: bool,
    /// Files of failed tries that are to be removed.
    pub(super) leftovers: Vec<String>,
    /// Removed, but a crash may bring it back.
    names_unsynced: bool,
}

impl Log {
    /// A log of these segments, of which the last reaches to its extent and is synced so far.
    pub(super) fn of(
        folder: Arc<dyn Folder>,
        rules: Rules,
        epoch: u64,
        segments: VecDeque<Arc<Segment>>,
        sequence: u64,
        checkpoint: Checkpoint,
    ) -> Self {
        let bytes = segments.back().map_or(0, |last| last.extent().bytes);
        Self {
            folder,
            rules,
            epoch,
            // Without a segment there is nothing to write to before the next one.
            broken: segments.is_empty(),
            is_careful: false,
            segments,
            sequence,
            written_bytes: bytes,
            synced_bytes: bytes,
            checkpoint,
            unsafe_entries: VecDeque::new(),
            unwritten: VecDeque::new(),
            pending_bytes: 0,
            is_doubtful: false,
            leftovers: Vec::new(),
            names_unsynced: false,
        }
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> &VecDeque<Arc<Segment>> {
        &self.segments
    }

    /// The life of the numbering.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Everything below is safe.
    pub fn safe(&self) -> Position {
        self.segments
            .back()
            .map_or(Position::default(), |last| last.extent().end)
    }

    /// What is settled by all that is safe.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Bytes on the disk that count.
    pub fn bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.extent().bytes)
            .sum()
    }

    /// Whether all that was given is safe.
    pub fn is_safe(&self) -> bool {
        self.unwritten.is_empty() && self.unsafe_entries.is_empty()
    }

    /// Bytes that were given and are not safe.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Whether all that was given is known to be on the disk.
    pub fn is_synced(&self) -> bool {
        self.is_safe()
            && !self.broken
            && !self.is_doubtful
            && self.synced_bytes == self.written_bytes
    }

    /// Begins a segment of another epoch, or without a checkpoint, and goes on in it. For what was just
    /// recovered.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn begin_anew(&mut self, epoch: Option<u64>, forget: bool) -> io::Result<()> {
        self.epoch = epoch.unwrap_or(self.epoch);
        if forget {
            self.checkpoint = Checkpoint::default();
        }
        self.next_segment()
    }

    /// Takes what is to be written next.
    pub fn give(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.pending_bytes += entry.bytes();
            self.unwritten.push_back(entry);
        }
    }

    /// Writes what was given. What is written is safe after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// Whatever the system says; nothing is lost, and the next call goes on from what is safe.
    pub fn write(&mut self) -> io::Result<()> {
        if self.broken {
            self.next_segment()?;
        }
        let mut buffer = Vec::new();
        while let Some(entry) = self.unwritten.front() {
            let bytes = entry.bytes();
            let at = self.written_bytes + buffer.len() as u64;
            let is_full = at + bytes > self.rules.segment_bytes && at > self.head_bytes();
            if is_full {
                self.flush(&mut buffer)?;
                self.sync()?;
                self.next_segment()?;
                continue;
            }
            let sequence = self.segments.back().expect("there is one").sequence;
            encode_record(
                &mut buffer,
                sequence,
                self.synced_bytes,
                entry.made_at_ms,
                &entry.chunk,
                &entry.settled,
            );
            let entry = self.unwritten.pop_front().expect("it was looked at");
            self.unsafe_entries.push_back(entry);
            if buffer.len() >= WRITE_BYTES || self.is_careful {
                self.flush(&mut buffer)?;
            }
            if self.is_careful {
                self.sync()?;
            }
        }
        self.flush(&mut buffer)?;
        self.is_careful = false;
        Ok(())
    }

    fn flush(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let last = self.segments.back().expect("there is one");
        let written = write_full(&*last.file, buffer, self.written_bytes);
        if let Err(error) = written {
            return Err(self.fail(error));
        }
        self.written_bytes += buffer.len() as u64;
        buffer.clear();
        if !self.rules.synced {
            self.note_safe();
        }
        Ok(())
    }

    /// Makes what is written safe.
    ///
    /// # Errors
    /// Whatever the system says; nothing is lost, and the next write goes on from what is safe.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(last) = self.segments.back() else {
            return Ok(());
        };
        if self.broken || self.synced_bytes == self.written_bytes {
            return Ok(());
        }
        match last.file.sync() {
            Ok(()) => {
                self.synced_bytes = self.written_bytes;
                self.note_safe();
                Ok(())
            }
            // What the kernel took counts, and it was told: there is nothing left to write again.
            Err(error) if !self.rules.synced => {
                tracing::error!(%error, "the journal could not be synced; a crash of the machine may lose records");
                self.is_doubtful = true;
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Everything written is safe: from here on readers see it and sources commit it (I1).
    fn note_safe(&mut self) {
        let last = self.segments.back().expect("it was written to");
        for entry in self.unsafe_entries.drain(..) {
            let bytes = entry.bytes();
            self.pending_bytes -= bytes;
            let (first, end) = (entry.chunk.first, entry.chunk.end());
            last.note(first, end, bytes, entry.made_at_ms);
            for delta in &entry.settled {
                let settled = self.checkpoint.settle(delta);
                settled.expect("who appends has checked the step");
            }
        }
    }

    /// After a failure: the segment counts as far as it is safe, and the rest is to be written again.
    fn fail(&mut self, error: io::Error) -> io::Error {
        self.broken = true;
        self.is_careful = true;
        for entry in self.unsafe_entries.drain(..).rev() {
            self.unwritten.push_front(entry);
        }
        error
    }

    fn head_bytes(&self) -> u64 {
        self.segments.back().map_or(0, |last| last.head_bytes())
    }

    /// Begins a segment behind what is safe. All that is written must be.
    pub(super) fn next_segment(&mut self) -> io::Result<()> {
        self.broken = true; // until there is one
        // One that nothing came of is replaced: tries must not fill a disk that is full already.
        let replaced = self.segments.pop_back_if(|last| last.is_empty());
        let made = self.make_segment(replaced.as_deref());
        match (&made, replaced) {
            (Ok(()), Some(replaced)) => self.remove(name(replaced.sequence)),
            (Err(_), Some(replaced)) => self.segments.push_back(replaced),
            (_, None) => {}
        }
        made
    }

    /// Removes a file that does not count any more, now or later.
    fn remove(&mut self, name: String) {
        if self.folder.remove(&name).is_err() {
            self.leftovers.push(name);
        }
    }

    fn make_segment(&mut self, replaced: Option<&Segment>) -> io::Result<()> {
        let previous = self.segments.back().cloned();
        let extent = previous.as_ref().map(|previous| previous.extent());
        self.sequence += 1;
        let head = Head {
            epoch: self.epoch,
            sequence: self.sequence,
            first: replaced.map_or_else(|| self.safe(), |replaced| replaced.first),
            previous: previous.as_ref().map_or(0, |previous| previous.sequence),
            previous_bytes: extent.map_or(0, |extent| extent.bytes),
            checkpoint: self.checkpoint.clone(),
        };
        let bytes = head.encode();
        let name = name(self.sequence);
        let created = self.folder.create(&name).and_then(|file| {
            write_full(&*file, &bytes, 0)?;
            file.sync()?;
            self.folder.sync()?;
            Ok(file)
        });
        let file = match created {
            Ok(file) => file,
            Err(error) => {
                self.remove(name);
                return Err(error);
            }
        };
        if let (Some(previous), Some(extent)) = (previous, extent) {
            // Only for the space: what is behind counts for nothing from now on.
            let _ = previous.file.cut(extent.bytes);
        }
        let bytes = bytes.len() as u64;
        let segment = Segment::new(head, file, bytes);
        self.segments.push_back(Arc::new(segment));
        self.written_bytes = bytes;
        self.synced_bytes = bytes;
        self.broken = false;
        Ok(())
    }

    /// Drops the oldest segment. One is gone for good before the next is removed: what is left after a
    /// crash has no gap.
    ///
    /// # Errors
    /// Whatever the system says; the segment stays.
    ///
    /// # Panics
    /// If it is the only one: that is written to.
    pub fn drop_oldest(&mut self) -> io::Result<()> {
        assert!(self.segments.len() > 1, "the last segment is written to");
        while let Some(name) = self.leftovers.last() {
            match self.folder.remove(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.names_unsynced = true,
            }
            self.leftovers.pop();
        }
        if self.names_unsynced {
            self.folder.sync()?;
            self.names_unsynced = false;
        }
        self.folder.remove(&name(self.segments[0].sequence))?;
        self.segments.pop_front();
        self.names_unsynced = true;
        Ok(())
    }
}
