//! Frames of the journal that go out in one write, as they are: the bytes are shared by everybody.
//!
//! Owns how much one write takes, and the arithmetic of what the kernel took of it. Does no I/O and
//! holds no chunk longer than the write.

use std::io::IoSlice;
use std::ops::Range;

use crate::journal::{Chunk, Journal, Position, Read};
use crate::sink::websocket::session::{Order, Piece};

/// Bytes that are gathered for one write.
pub(super) const WRITE_BYTES: u64 = 64 * 1024;
/// Chunks that are gathered for one write.
const WRITE_CHUNKS: usize = 16;
/// What is written in one call: the chunks, and something of the sender's own behind them.
const SLICES: usize = WRITE_CHUNKS + 1;

/// What the journal has at a position for one write.
#[allow(clippy::large_enum_variant)] // on the stack, and gone after the write
pub(super) enum Found {
    /// Whole frames.
    Frames(Gathered),
    /// A position in the middle of a frame: what follows goes out record by record.
    MidFrame(Chunk),
    /// Retention has passed it.
    Lost {
        /// The oldest kept.
        tail: Position,
    },
    /// Nothing yet.
    Nothing,
}

/// See the module.
pub(super) struct Gathered {
    pieces: [Option<(Chunk, Range<usize>)>; WRITE_CHUNKS],
    count: usize,
    bytes: usize,
    start: Position,
    end: Position,
}

/// What the kernel took of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Every record below went out whole.
    pub(super) whole: Position,
    /// Every record below went out, or is in the frame that was cut.
    pub(super) begun: Position,
    /// Bytes of the journal's frames that went out.
    pub(super) bytes: usize,
}

impl Gathered {
    /// What `order` allows, at most `frames_max` frames.
    pub(super) fn find(journal: &dyn Journal, mut order: Order, frames_max: u64) -> Found {
        let mut gathered = Self {
            pieces: [const { None }; WRITE_CHUNKS],
            count: 0,
            bytes: 0,
            start: order.from,
            end: order.from,
        };
        let mut frames_left = frames_max as usize;
        while gathered.count < WRITE_CHUNKS && order.bytes_max > 0 && frames_left > 0 {
            let chunk = match journal.read(order.from) {
                Read::Chunk(chunk) => chunk,
                Read::Lost { tail } if gathered.count == 0 => return Found::Lost { tail },
                Read::Wait | Read::Lost { .. } => break,
            };
            let mut frames = match order.cut(&chunk) {
                Piece::Frames(frames) => frames,
                Piece::Record(_) if gathered.count == 0 => return Found::MidFrame(chunk),
                Piece::Record(_) => break,
            };
            frames.end = frames.end.min(frames.start.saturating_add(frames_left));
            frames_left -= frames.len();
            let piece = Piece::Frames(frames.clone());
            let bytes = piece.wire(&chunk).len();
            order.bytes_max = order.bytes_max.saturating_sub(bytes as u64);
            order.from = chunk.first.plus(piece.records(&chunk).end as u64);
            gathered.end = order.from;
            gathered.bytes += bytes;
            gathered.pieces[gathered.count] = Some((chunk, frames));
            gathered.count += 1;
        }
        match gathered.count {
            0 => Found::Nothing,
            _ => Found::Frames(gathered),
        }
    }

    /// The position behind the last frame.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// How many bytes they are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hands the frames, and `tail` behind them, to `write`.
    pub(super) fn write<R>(&self, tail: &[u8], write: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, (chunk, frames)) in slices.iter_mut().zip(self.pieces()) {
            *slice = IoSlice::new(&chunk.wire[Piece::Frames(frames.clone()).wire(chunk)]);
        }
        slices[self.count] = IoSlice::new(tail);
        let count = self.count + usize::from(!tail.is_empty());
        write(&slices[..count])
    }

    /// What `written` bytes mean: each piece that went out, the frame that was cut included, is told to
    /// `sent`; the rest of that frame is appended to `rest`.
    pub(super) fn taken(
        &self,
        written: usize,
        rest: &mut Vec<u8>,
        mut sent: impl FnMut(&Chunk, &Piece),
    ) -> Taken {
        let mut left = written.min(self.bytes);
        let (mut whole, mut begun) = (self.start, self.start);
        let bytes = left;
        for (chunk, frames) in self.pieces() {
            let wire = Piece::Frames(frames.clone()).wire(chunk);
            let after = |frames: usize| {
                let records = chunk.frames[frames - 1].records_end;
                chunk.first.plus(u64::from(records))
            };
            let reached = wire.end.min(wire.start + left);
            left -= reached - wire.start;
            let cut = chunk
                .frames
                .partition_point(|frame| frame.wire_end as usize <= reached);
            let mut end = cut;
            if cut > frames.start {
                whole = after(cut);
            }
            if reached < wire.end && reached > chunk.frame_wire(cut).start {
                let frame_end = chunk.frame_wire(cut).end;
                rest.extend_from_slice(&chunk.wire[reached..frame_end]);
                end += 1;
            }
            if end > frames.start {
                sent(chunk, &Piece::Frames(frames.start..end));
                begun = after(end);
            }
            if left == 0 {
                break;
            }
        }
        Taken {
            whole,
            begun,
            bytes,
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &(Chunk, Range<usize>)> {
        self.pieces.iter().flatten()
    }
}
