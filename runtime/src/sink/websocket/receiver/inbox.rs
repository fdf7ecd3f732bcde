//! Frames out of a byte stream, without a copy.
//!
//! Owns the read buffer and the frame header, and whether that is one (RFC 6455, section 5.2). A frame is
//! handed out when it is whole, still masked. What its payload means is the desk's.

use super::super::outbound::mask_into;

/// Bytes read at once. What one read brought is handled before the next, so it bounds what waits to be
/// answered too (I4).
const READ_BYTES: usize = 256 * 1024;
/// The first read: most of those who connect and are no sender say little.
const FIRST_BYTES: usize = 4096;
/// Longest payload of a control frame.
const CONTROL_BYTES_MAX: u8 = 125;

/// See the module.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all the room that there was.
    was_full: bool,
    frame_bytes_max: usize,
}

/// A whole frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) last: bool,
    pub(super) opcode: u8,
    mask: [u8; 4],
    masked: &'a [u8],
}

/// A sender breaks RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The code of the Close that tells it.
    pub(super) code: u16,
    pub(super) words: &'static str,
}

impl Broken {
    /// A rule of frames.
    pub(super) fn rule(words: &'static str) -> Self {
        Self { code: 1002, words }
    }

    /// Text that is none.
    pub(super) fn text(words: &'static str) -> Self {
        Self { code: 1007, words }
    }

    /// More than is taken.
    pub(super) fn too_long() -> Self {
        Self {
            code: 1009,
            words: "a message is longer than `--message-max`",
        }
    }
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
    /// One whose frames have so many bytes at most.
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
            was_full: true,
            frame_bytes_max,
        }
    }

    /// Where to read into; never empty, and no more than a frame needs.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let is_tight = match self.bytes.len() < READ_BYTES {
            true => self.was_full,
            false => self.bytes.len() - self.end < READ_BYTES / 2,
        };
        if is_tight {
            let bytes = (self.bytes.len() * 2).max(FIRST_BYTES);
            self.bytes.resize(bytes, 0);
        }
        let most = self.bytes.len().min(self.end + READ_BYTES);
        &mut self.bytes[self.end..most]
    }

    /// So many bytes were read into [`room`](Self::room).
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        self.was_full = self.end == self.bytes.len();
    }

    /// The next whole frame. What is wrong with one is known once its header is here.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, Broken> {
        let bytes = &self.bytes[self.start..self.end];
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        check(first, second)?;
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
        if length > self.frame_bytes_max as u64 {
            return Err(Broken::too_long());
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

/// The rules of the first two bytes.
fn check(first: u8, second: u8) -> Result<(), Broken> {
    let opcode = first & 0x0f;
    let is_control = opcode >= 0x8;
    if first & 0x70 != 0 {
        return Err(Broken::rule("a reserved bit is set"));
    }
    if !matches!(opcode, 0x0..=0x2 | 0x8..=0xa) {
        return Err(Broken::rule("a reserved opcode"));
    }
    if is_control && first & 0x80 == 0 {
        return Err(Broken::rule("a control frame in pieces"));
    }
    if is_control && second & 0x7f > CONTROL_BYTES_MAX {
        return Err(Broken::rule("a control frame of more than 125 bytes"));
    }
    if second & 0x80 == 0 {
        return Err(Broken::rule("a client's frame is not masked"));
    }
    Ok(())
}
