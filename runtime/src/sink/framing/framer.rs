//! The framer: from outputs to frames that are ready for the wire.
//!
//! Owns the frame that is still open, and where one chunk ends and the next begins. Pure. The pipeline
//! drives one, before the journal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{BatchBounds, Batching, Carrier, Framing, envelope, push_header};
use crate::journal::{Chunk, Frame, Position};
use crate::record::{Batch, Column, Outputs};

/// Builds frames from outputs, in order. A batch frame may stay open between batches.
pub struct Framer {
    framing: Framing,
    /// Closed frames as they go to the journal: no more at once than one frame may have, so that what
    /// the journal takes does not hang on how much a plugin makes of a batch.
    chunks: VecDeque<Chunk>,
    wire: Vec<u8>,
    frames: Vec<Frame>,
    records: Vec<(u32, u32)>,
    keys: Keys,
    open: Open,
    next: Position,
    /// Everything below was taken.
    taken: Position,
    wire_bytes_last: usize,
}

/// A batch frame that is not closed yet: its payload, and its records' places in it.
#[derive(Default)]
struct Open {
    payload: Vec<u8>,
    records: Vec<(u32, u32)>,
    keys: Keys,
    since: Option<Duration>,
}

/// The keys of records side by side with them; nothing as long as none has a key.
#[derive(Default)]
struct Keys(Column);

impl Keys {
    /// The key of the record that comes after `records` others.
    fn push(&mut self, records: usize, key: Option<&[u8]>) {
        if key.is_some() || !self.0.is_empty() {
            self.pad(records);
            self.0.push(key.unwrap_or_default());
        }
    }

    /// The keys of more records, which come after `records` others.
    fn append(&mut self, records: usize, more: &Self) {
        if !more.0.is_empty() {
            self.pad(records);
            more.0.iter().for_each(|key| self.0.push(key));
        }
    }

    /// As many as there are records.
    fn pad(&mut self, records: usize) {
        (self.0.len()..records).for_each(|_| self.0.close());
    }

    fn take(&mut self, records: usize) -> Option<Arc<Column>> {
        if self.0.is_empty() {
            return None;
        }
        self.pad(records);
        Some(Arc::new(std::mem::take(&mut self.0)))
    }
}

impl Framer {
    /// A framer whose first record will be at `next`.
    pub fn new(framing: Framing, next: Position) -> Self {
        Self {
            framing,
            chunks: VecDeque::new(),
            wire: Vec::new(),
            frames: Vec::new(),
            records: Vec::new(),
            keys: Keys::default(),
            open: Open::default(),
            next,
            taken: next,
            wire_bytes_last: 0,
        }
    }

    /// The position of the next record that is pushed.
    pub fn next(&self) -> Position {
        self.next
    }

    /// Whether there are closed frames to take.
    pub fn has_frames(&self) -> bool {
        !self.chunks.is_empty() || !self.frames.is_empty()
    }

    /// The position below which every record was taken.
    pub fn taken_below(&self) -> Position {
        self.taken
    }

    /// When the open frame has to be closed, if there is one.
    pub fn deadline(&self) -> Option<Duration> {
        let (Batching::Ndjson(bounds) | Batching::JsonArray(bounds)) = self.framing.batch else {
            return None;
        };
        self.open.since.map(|since| since + bounds.wait)
    }

    /// Adds the outputs of a batch, all of which passed [`Framing::check`].
    pub fn push(&mut self, batch: &Batch, outputs: &Outputs, now: Duration) {
        if self.wire.capacity() == 0 {
            self.wire.reserve(
                self.wire_bytes_last
                    .max(outputs.payloads.bytes.len() + outputs.len() * 4),
            );
        }
        let mut wrapped = Vec::new();
        for index in 0..outputs.len() {
            let mut record = outputs.payloads.get(index);
            if self.framing.envelope {
                wrapped.clear();
                envelope::wrap(&mut wrapped, batch, outputs, index);
                record = &wrapped;
            }
            match self.framing.batch {
                Batching::Record => self.push_frame(record, outputs.key(batch, index)),
                Batching::Ndjson(bounds) | Batching::JsonArray(bounds) => {
                    self.push_to_batch(record, outputs.key(batch, index), bounds, now);
                }
            }
        }
        self.next = self.next.plus(outputs.len() as u64);
    }

    fn push_frame(&mut self, record: &[u8], key: Option<&[u8]>) {
        self.make_room(record.len(), 1);
        self.keys.push(self.records.len(), key);
        self.push_header(record.len());
        let start = self.wire.len() as u32;
        self.wire.extend_from_slice(record);
        let end = self.wire.len() as u32;
        if self.framing.carrier == Carrier::Line {
            self.wire.push(b'\n');
        }
        self.records.push((start, end));
        self.frames.push(Frame {
            wire_end: self.wire.len() as u32,
            payload_start: start,
            records_end: self.records.len() as u32,
        });
    }

    fn push_header(&mut self, payload_bytes: usize) {
        if let Some(opcode) = self.framing.carrier.opcode() {
            push_header(&mut self.wire, opcode, payload_bytes);
        }
    }

    fn push_to_batch(
        &mut self,
        record: &[u8],
        key: Option<&[u8]>,
        bounds: BatchBounds,
        now: Duration,
    ) {
        let bytes_max = bounds.bytes_max.min(self.framing.frame_bytes_max);
        // The separator before the record and the bracket after the last one.
        if !self.open.records.is_empty() && self.open.payload.len() + record.len() + 2 > bytes_max {
            self.close();
        }
        let array = matches!(self.framing.batch, Batching::JsonArray(_));
        match (self.open.records.is_empty(), array) {
            (true, true) => self.open.payload.push(b'['),
            (true, false) => {}
            (false, true) => self.open.payload.push(b','),
            (false, false) => self.open.payload.push(b'\n'),
        }
        let start = self.open.payload.len() as u32;
        self.open.keys.push(self.open.records.len(), key);
        self.open.payload.extend_from_slice(record);
        self.open
            .records
            .push((start, self.open.payload.len() as u32));
        self.open.since.get_or_insert(now);
        if self.open.records.len() >= bounds.records_max {
            self.close();
        }
    }

    /// Closes the open batch frame, if there is one.
    pub fn close(&mut self) {
        let Open {
            mut payload,
            records,
            keys,
            since: _,
        } = std::mem::take(&mut self.open);
        if records.is_empty() {
            return;
        }
        if matches!(self.framing.batch, Batching::JsonArray(_)) {
            payload.push(b']');
        }
        self.make_room(payload.len(), records.len());
        self.push_header(payload.len());
        let base = self.wire.len() as u32;
        self.wire.extend_from_slice(&payload);
        self.keys.append(self.records.len(), &keys);
        self.records.extend(
            records
                .iter()
                .map(|(start, end)| (base + start, base + end)),
        );
        self.frames.push(Frame {
            wire_end: self.wire.len() as u32,
            payload_start: base,
            records_end: self.records.len() as u32,
        });
    }

    /// Begins another chunk where a frame of `payload_bytes` with `records` records would make the one
    /// that is being filled too large.
    fn make_room(&mut self, payload_bytes: usize, records: usize) {
        let places = (self.records.len() + records) * size_of::<(u32, u32)>()
            + (self.frames.len() + 1) * size_of::<Frame>();
        let bytes = self.wire.len() + payload_bytes + self.keys.0.bytes.len() + places;
        if bytes > self.framing.frame_bytes_max && !self.frames.is_empty() {
            let chunk = self.seal();
            self.chunks.push_back(chunk);
        }
    }

    fn seal(&mut self) -> Chunk {
        self.wire_bytes_last = self.wire.len();
        let chunk = Chunk {
            wire: std::mem::take(&mut self.wire).into(),
            frames: Arc::from(&self.frames[..]),
            records: Arc::from(&self.records[..]),
            keys: self.keys.take(self.records.len()),
            ..Chunk::default()
        };
        self.frames.clear();
        self.records.clear();
        chunk
    }

    /// The next closed frames as a chunk, if there are any. The journal sets its position.
    pub fn take(&mut self) -> Option<Chunk> {
        let chunk = match self.chunks.pop_front() {
            Some(chunk) => chunk,
            None if self.frames.is_empty() => return None,
            None => self.seal(),
        };
        self.taken = self.taken.plus(chunk.records.len() as u64);
        Some(chunk)
    }
}
