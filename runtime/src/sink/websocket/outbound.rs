//! The client's output buffer: frames of the journal, masked, end to end.
//!
//! Owns masking and the frames that a client makes itself. Only whole frames are appended, so whatever
//! is queued (a Pong that the library answers, a Ping of the session) lands at a frame boundary.
//!
//! Why not the library's writer: it takes one message a call, owned, and masks it in a pass of its own.
//! Here a span of the journal is copied, masked and framed in one pass, into one buffer that goes out
//! in one write. Masks come from a cryptographic generator seeded by the system, fresh for every frame:
//! RFC 6455, section 10.3, wants them unpredictable to whoever chooses the payload.

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};

use super::session::Piece;
use crate::journal::{Chunk, Position};
use crate::sink::framing::{Batching, Carrier, Framing};

/// How full the buffer is made before it is written.
pub(super) const BUFFER_BYTES: usize = 128 * 1024;
/// Longest header of a masked frame.
const HEADER_BYTES_MAX: usize = 14;
/// A final frame.
const FINAL: u8 = 0x80;
/// A masked frame.
const MASKED: u8 = 0x80;

/// Control frames that a client writes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
    Close = 0x8,
    Ping = 0x9,
}

/// See the module.
pub(super) struct Outbound {
    bytes: Vec<u8>,
    /// What of `bytes` is written out already, and where it ends.
    start: usize,
    end: usize,
    /// Every record below is in the buffer or written.
    to: Position,
    masks: StdRng,
}

impl Outbound {
    /// An empty buffer, at `position` in the journal.
    pub(super) fn new(position: Position) -> std::io::Result<Self> {
        Ok(Self {
            bytes: vec![0; BUFFER_BYTES + 4096],
            start: 0,
            end: 0,
            to: position,
            masks: StdRng::try_from_rng(&mut SysRng).map_err(std::io::Error::other)?,
        })
    }

    /// How many bytes it still takes: none while a part of it is written, so that it is never moved.
    pub(super) fn room(&self) -> u64 {
        if self.start > 0 {
            0
        } else {
            BUFFER_BYTES.saturating_sub(self.end) as u64
        }
    }

    /// What is to be written.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether what was written so far ends with a whole frame.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.start == 0
    }

    /// Every record below is in the buffer or written.
    pub(super) fn position(&self) -> Position {
        self.to
    }

    /// The kernel took `written` bytes. Returns whether nothing is left.
    pub(super) fn advance(&mut self, written: usize) -> bool {
        self.start += written;
        debug_assert!(self.start <= self.end);
        let drained = self.start == self.end;
        if drained {
            self.start = 0;
            self.end = 0;
            // A frame larger than the buffer has made it grow; it does not stay so.
            self.bytes.truncate(BUFFER_BYTES + 4096);
            self.bytes.shrink_to(BUFFER_BYTES + 4096);
        }
        drained
    }

    /// Appends a piece of a chunk.
    pub(super) fn push(&mut self, chunk: &Chunk, piece: &Piece, framing: &Framing) {
        let wire_bytes = piece.wire(chunk).len();
        match piece {
            Piece::Frames(frames) => {
                self.reserve(wire_bytes + frames.len() * HEADER_BYTES_MAX);
                for index in frames.clone() {
                    let wire = chunk.frame_wire(index);
                    let payload = chunk.frames[index].payload_start as usize;
                    self.push_masked(
                        &chunk.wire[wire.start..payload],
                        &chunk.wire[payload..wire.end],
                    );
                }
            }
            Piece::Record(index) => {
                let record = chunk.record(*index);
                let opcode = match framing.carrier {
                    Carrier::Text => 0x1,
                    Carrier::Binary | Carrier::Line => 0x2,
                };
                match framing.batch {
                    Batching::Record | Batching::Ndjson(_) => self.push_frame(opcode, record),
                    Batching::JsonArray(_) => {
                        self.push_frame(opcode, &[b"[", record, b"]"].concat());
                    }
                }
            }
        }
        self.to = chunk.first.plus(piece.records(chunk).end as u64);
    }

    /// Appends a control frame.
    pub(super) fn push_control(&mut self, control: Control, payload: &[u8]) {
        self.push_frame(control as u8, payload);
    }

    /// Appends frames that are masked already: what the library answers by itself.
    pub(super) fn push_ready(&mut self, frames: &[u8]) {
        self.reserve(frames.len());
        self.bytes[self.end..self.end + frames.len()].copy_from_slice(frames);
        self.end += frames.len();
    }

    fn push_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.reserve(payload.len() + HEADER_BYTES_MAX);
        let mut header = [FINAL | opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let length = match payload.len() {
            bytes @ 0..=125 => {
                header[1] = bytes as u8;
                2
            }
            bytes @ 126..=0xffff => {
                header[1] = 126;
                header[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
                4
            }
            bytes => {
                header[1] = 127;
                header[2..10].copy_from_slice(&(bytes as u64).to_be_bytes());
                10
            }
        };
        self.push_masked(&header[..length], payload);
    }

    /// Appends a frame with the header of an unmasked one. Room must be reserved.
    #[inline]
    fn push_masked(&mut self, header: &[u8], payload: &[u8]) {
        let mask = self.masks.next_u32().to_ne_bytes();
        let out = &mut self.bytes[self.end..self.end + header.len() + 4 + payload.len()];
        let (head, rest) = out.split_at_mut(header.len());
        head.copy_from_slice(header);
        head[1] |= MASKED;
        let (key, body) = rest.split_at_mut(4);
        key.copy_from_slice(&mask);
        mask_into(body, payload, mask);
        self.end += header.len() + 4 + payload.len();
    }

    fn reserve(&mut self, bytes: usize) {
        if self.end + bytes > self.bytes.len() {
            self.bytes.resize(self.end + bytes, 0);
        }
    }
}

/// Copies `from` to `to`, which is as long, under a mask: eight bytes at a time, which the compiler
/// makes into vectors.
#[inline]
pub(super) fn mask_into(to: &mut [u8], from: &[u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (to_words, to_rest) = to.as_chunks_mut::<8>();
    let (from_words, from_rest) = from.as_chunks::<8>();
    for (to, from) in to_words.iter_mut().zip(from_words) {
        *to = (u64::from_ne_bytes(*from) ^ wide).to_ne_bytes();
    }
    for (index, (to, from)) in to_rest.iter_mut().zip(from_rest).enumerate() {
        *to = from ^ mask[index & 3];
    }
}
