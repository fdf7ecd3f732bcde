//! Frames out of a byte stream, without a copy.
//!
//! Owns the read buffer and the frame header (RFC 6455, section 5.2). A frame is handed out when it is
//! whole, still masked.

use std::io;

use super::super::outbound::mask_into;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Longest frame.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// A whole frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) last: bool,
    pub(super) opcode: u8,
    mask: [u8; 4],
    masked: &'a [u8],
}

impl Frame<'_> {
    /// Payload bytes.
    pub(super) fn len(&self) -> usize {
        self.masked.len()
    }

    /// Appends the payload.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.masked.len(), 0);
        mask_into(&mut out[start..], self.masked, self.mask);
    }
}

impl Inbox {
    /// Where to read into; never empty.
    pub(super) fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end + READ_BYTES / 2 > self.bytes.len() {
            let bytes = (self.bytes.len() * 2).max(READ_BYTES);
            if bytes > 2 * FRAME_BYTES_MAX {
                return Err(io::Error::other("a frame is longer than 64 MiB"));
            }
            self.bytes.resize(bytes, 0);
        }
        Ok(&mut self.bytes[self.end..])
    }

    /// So many bytes were read into [`room`](Self::room).
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        let bytes = &self.bytes[self.start..self.end];
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(io::Error::other("a client's frame is not masked"));
        }
        let (length, rest) = match second & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            length => (u64::from(length), rest),
        };
        if length > FRAME_BYTES_MAX as u64 {
            return Err(io::Error::other("a frame is longer than 64 MiB"));
        }
        let Some((&mask, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let Some(masked) = rest.get(..length as usize) else {
            return Ok(None);
        };
        self.start += bytes.len() - rest.len() + masked.len();
        Ok(Some(Frame {
            last: first & 0x80 != 0,
            opcode: first & 0x0f,
            mask,
            masked,
        }))
    }
}
