//! Cutting a chunk to what may be sent: whole frames, or one record of a frame.
//!
//! Owns the arithmetic between positions and frames. Looks up by halves, never record by record: a
//! span of a thousand frames costs what a span of one does.

use std::ops::Range;

use crate::journal::{Chunk, Position};

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Where to read the journal.
    pub from: Position,
    /// Most records; one frame more where a frame holds several.
    pub records_max: u64,
    /// Most bytes; at least one frame all the same.
    pub bytes_max: u64,
    /// One record in a frame of its own.
    pub alone: bool,
}

/// A part of a chunk that goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Whole frames, as indices into [`Chunk::frames`].
    Frames(Range<usize>),
    /// One record, as an index into [`Chunk::records`], in a frame of its own.
    Record(usize),
}

impl Order {
    /// The part of `chunk` that this order allows: at least one frame, or one record where the frame
    /// is begun or records go one by one. `chunk` must hold `from`.
    pub fn cut(&self, chunk: &Chunk) -> Piece {
        let record = self.from.since(chunk.first) as usize;
        let frame = chunk.frame_at(self.from);
        let records = chunk.frame_records(frame);
        if records.len() > 1 && (self.alone || records.start != record) {
            return Piece::Record(record);
        }
        if self.alone {
            return Piece::Frames(frame..frame + 1);
        }
        let wire_start = chunk.frame_wire(frame).start as u64;
        let wire_max = wire_start.saturating_add(self.bytes_max);
        let record_max = (record as u64).saturating_add(self.records_max);
        let rest = &chunk.frames[frame..];
        let fitting = rest.partition_point(|frame| {
            u64::from(frame.wire_end) <= wire_max && u64::from(frame.records_end) <= record_max
        });
        Piece::Frames(frame..frame + fitting.max(1))
    }
}

impl Piece {
    /// The records that it carries, as indices into [`Chunk::records`].
    pub fn records(&self, chunk: &Chunk) -> Range<usize> {
        match self {
            Self::Record(index) => *index..*index + 1,
            Self::Frames(frames) => {
                let start = chunk.frame_records(frames.start).start;
                start..chunk.frames[frames.end - 1].records_end as usize
            }
        }
    }

    /// Where its frames are in [`Chunk::wire`], end to end; a single record without its header.
    pub fn wire(&self, chunk: &Chunk) -> Range<usize> {
        match self {
            Self::Record(index) => {
                let (start, end) = chunk.records[*index];
                start as usize..end as usize
            }
            Self::Frames(frames) => {
                let start = chunk.frame_wire(frames.start).start;
                start..chunk.frames[frames.end - 1].wire_end as usize
            }
        }
    }

    /// How many frames it makes.
    pub fn frames(&self) -> usize {
        match self {
            Self::Record(_) => 1,
            Self::Frames(frames) => frames.len(),
        }
    }
}
