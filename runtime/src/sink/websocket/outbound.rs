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
use crate::sink::framing::{Batching, Framing, push_header};

/// How full the buffer is made before it is written.
pub(super) const BUFFER_BYTES: usize = 128 * 1024;
/// Longest header of a masked frame.
const HEADER_BYTES_MAX: usize = 14;
/// A masked frame.
const MASKED: u8 = 0x80;
/// The opcode of a text message.
const TEXT: u8 = 0x1;

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
                let opcode = framing.carrier.opcode();
                let opcode = opcode.expect("a client's messages are text or binary");
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

    /// Appends a text message of the client's own.
    pub(super) fn push_text(&mut self, text: &str) {
        self.push_frame(TEXT, text.as_bytes());
    }

    /// Appends whole frames that are not masked yet: what the sender of `protocol` says.
    pub(super) fn push_unmasked(&mut self, mut frames: &[u8]) {
        while let [_, length, rest @ ..] = frames {
            let (header, bytes) = match (length, rest) {
                (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                _ => (2, usize::from(*length)),
            };
            self.reserve(bytes + HEADER_BYTES_MAX);
            let (frame, after) = frames.split_at(header + bytes);
            self.push_masked(&frame[..header], &frame[header..]);
            frames = after;
        }
    }

    /// Appends frames that are masked already: what the library answers by itself.
    pub(super) fn push_ready(&mut self, frames: &[u8]) {
        self.reserve(frames.len());
        self.bytes[self.end..self.end + frames.len()].copy_from_slice(frames);
        self.end += frames.len();
    }

    fn push_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.reserve(payload.len() + HEADER_BYTES_MAX);
        let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
        push_header(&mut header, opcode, payload.len());
        self.push_masked(&header, payload);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Frame;
    use crate::sink::framing::Carrier;
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};
    use tokio_tungstenite::tungstenite::{Error, Message};

    fn framing(batch: Batching) -> Framing {
        Framing {
            carrier: Carrier::Text,
            batch,
            envelope: false,
            frame_bytes_max: 1 << 24,
        }
    }

    fn chunk(payloads: &[String]) -> Chunk {
        let (mut wire, mut frames, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for payload in payloads {
            push_header(&mut wire, 0x1, payload.len());
            let start = wire.len() as u32;
            wire.extend_from_slice(payload.as_bytes());
            records.push((start, wire.len() as u32));
            frames.push(Frame {
                wire_end: wire.len() as u32,
                payload_start: start,
                records_end: records.len() as u32,
            });
        }
        Chunk {
            wire: wire.into(),
            frames: frames.into(),
            records: records.into(),
            ..Chunk::default()
        }
    }

    /// What the library, as a server, reads of the buffer.
    fn read(out: &Outbound) -> Vec<Message> {
        let bytes = std::io::Cursor::new(out.pending().to_vec());
        let mut socket = WebSocket::from_raw_socket(bytes, Role::Server, None);
        let mut messages = Vec::new();
        loop {
            match socket.read() {
                Ok(message) => messages.push(message),
                Err(Error::Protocol(_)) => return messages,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn another_implementation_reads_what_was_written() {
        // Around every length of a header and every rest of eight.
        let lengths = (0..40).chain([124, 125, 126, 127, 65_535, 65_536, 200_000]);
        let payloads: Vec<String> = lengths
            .map(|n| "é1".repeat(n).chars().take(n).collect())
            .collect();
        let chunk = chunk(&payloads);
        let mut out = Outbound::new(Position(0)).unwrap();
        let frames = Piece::Frames(0..payloads.len());
        out.push(&chunk, &frames, &framing(Batching::Record));
        let expected: Vec<Message> = payloads.iter().map(|p| Message::text(p.clone())).collect();
        assert_eq!(read(&out), expected);
        assert_eq!(out.position(), chunk.end());
    }

    #[test]
    fn a_record_alone_has_a_frame_of_its_own() {
        let chunk = chunk(&["[1,2]".to_owned()]);
        let bounds = crate::sink::framing::BatchBounds {
            records_max: 2,
            bytes_max: 100,
            wait: std::time::Duration::ZERO,
        };
        for (batch, expected) in [
            (Batching::Record, "[1,2]"),
            (Batching::Ndjson(bounds), "[1,2]"),
            (Batching::JsonArray(bounds), "[[1,2]]"),
        ] {
            let mut out = Outbound::new(Position(0)).unwrap();
            out.push(&chunk, &Piece::Record(0), &framing(batch));
            assert_eq!(read(&out), [Message::text(expected)]);
        }
    }

    #[test]
    fn no_two_frames_share_a_mask() {
        let mut out = Outbound::new(Position(0)).unwrap();
        (0..1000).for_each(|_| out.push_control(Control::Ping, b"same"));
        let masks: std::collections::BTreeSet<&[u8]> =
            out.pending().chunks(10).map(|frame| &frame[2..6]).collect();
        // Two of a thousand random masks of 32 bits are the same once in 8,600 runs; ten never are.
        assert!(masks.len() > 990, "{} masks", masks.len());
    }

    #[test]
    fn nothing_moves_while_a_part_is_written() {
        let mut out = Outbound::new(Position(0)).unwrap();
        out.push_control(Control::Ping, b"one");
        assert!(out.room() > 0);
        assert!(!out.advance(3));
        assert_eq!(out.room(), 0);
        assert!(!out.is_at_boundary());
        assert!(out.advance(out.pending().len()));
        assert!(out.room() > 0);
    }
}
