//! Frames of a WebSocket client, seen in the bytes that it sends: data frames counted, a Close read.
//!
//! Owns where in the stream it is. Never looks at the payload of a data frame. Called by the proxy.

/// Counts the messages of a connection; one frame a message is assumed.
#[derive(Default)]
pub(crate) struct Frames {
    /// What is behind the last whole frame.
    rest: Vec<u8>,
    /// The handshake is over.
    upgraded: bool,
    /// The code of a Close that came.
    pub(crate) closed: Option<u16>,
}

impl Frames {
    /// How many data frames these bytes complete.
    pub(crate) fn completed_by(&mut self, bytes: &[u8]) -> u64 {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        if !self.upgraded {
            let Some(end) = self.rest.windows(4).position(|end| end == b"\r\n\r\n") else {
                return 0;
            };
            (self.upgraded, at) = (true, end + 4);
        }
        let mut frames = 0;
        while let Some(length) = frame_bytes(&self.rest[at..]) {
            let is_data = self.rest[at] & 0x0f < 0x8;
            frames += u64::from(is_data);
            if self.rest[at] & 0x0f == 0x8 {
                self.closed = close_code(&self.rest[at..at + length]);
            }
            at += length;
        }
        self.rest.drain(..at);
        frames
    }
}

/// The code in a masked Close frame, if it has one.
fn close_code(frame: &[u8]) -> Option<u16> {
    let [_, _, mask @ .., a, b] = frame.first_chunk::<8>()?;
    Some(u16::from_be_bytes([a ^ mask[0], b ^ mask[1]]))
}

/// Bytes of the masked frame at the start (RFC 6455, section 5.2), if it is whole.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    const MASK: usize = 4;
    let (header, payload) = match bytes.get(1)? & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes[2..].first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let length = header + MASK + usize::try_from(payload).ok()?;
    (bytes.len() >= length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_data_frames_are_counted_wherever_the_bytes_are_cut() {
        let mut stream = b"GET / HTTP/1.1\r\n\r\n".to_vec();
        let mask = [7; 4];
        // A text, a Ping, a binary message of 300 bytes, and a text that is not whole.
        for (head, payload) in [
            (&[0x81, 0x80 | 2][..], 2),
            (&[0x89, 0x80][..], 0),
            (&[0x82, 0x80 | 126, 1, 44][..], 300),
            (&[0x81, 0x80 | 9][..], 8),
        ] {
            stream.extend([head, &mask].concat());
            stream.extend(std::iter::repeat_n(0x81, payload));
        }
        for size in [1, 3, 7, stream.len()] {
            let mut frames = Frames::default();
            let counted: u64 = stream.chunks(size).map(|c| frames.completed_by(c)).sum();
            assert_eq!(counted, 2, "in pieces of {size} bytes");
            assert_eq!(frames.closed, None);
        }
    }

    #[test]
    fn a_close_is_read() {
        let close = [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xea ^ 2];
        let mut frames = Frames::default();
        frames.completed_by(&[b"GET / HTTP/1.1\r\n\r\n".as_slice(), &close].concat());
        assert_eq!(frames.closed, Some(1002));
    }
}
