//! What a subscriber says, and the control frames that answer it.
//!
//! Owns the WebSocket library's state of one connection, between two buffers instead of a socket: it
//! is fed what was read, and what it would write waits in `outbox` for the one writer to send between
//! two frames. Does no I/O. Called by `subscriber`.

use std::io::{self, ErrorKind, Read, Write};

use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::sink::websocket::session::PING_BYTES;

/// Largest message that is taken from a subscriber, who has nothing to say.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// The library's read buffer, which it allocates for each connection.
const BUFFER_BYTES: usize = 512;

/// What a subscriber said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing that matters.
    Nothing,
    /// Its Close, or its answer to ours: nothing more is to come or to go, but `outbox`.
    Close,
}

/// One connection's inbound half.
pub(super) struct Inbound(WebSocket<Buffers>);

/// Stands where the library expects a socket.
#[derive(Default)]
struct Buffers {
    inbox: Vec<u8>,
    taken: usize,
    outbox: Vec<u8>,
}

impl Read for Buffers {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let unread = &self.inbox[self.taken..];
        if unread.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = unread.len().min(into.len());
        into[..count].copy_from_slice(&unread[..count]);
        self.taken += count;
        Ok(count)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inbound {
    pub(super) fn new() -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let buffers = Buffers::default();
        Self(WebSocket::from_raw_socket(
            buffers,
            Role::Server,
            Some(config),
        ))
    }

    /// Control frames that wait to be sent, whole.
    pub(super) fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.0.get_mut().outbox
    }

    /// Takes what was read. Messages are ignored, Pings answered, violations closed upon.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Heard {
        let buffers = self.0.get_mut();
        buffers.inbox.clear();
        buffers.taken = 0;
        buffers.inbox.extend_from_slice(bytes);
        loop {
            match self.0.read() {
                Ok(_) => (),
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    return Heard::Nothing;
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Heard::Close,
                Err(error) => {
                    self.close(complaint(&error), &error.to_string());
                    return Heard::Close;
                }
            }
        }
    }

    /// Queues a Ping.
    pub(super) fn ping(&mut self, payload: [u8; PING_BYTES]) {
        // Fails only once a Close was queued, and then none is needed.
        let _ = self.0.send(Message::Ping(payload.to_vec().into()));
    }

    /// Queues a Close, unless there was one.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let _ = self.0.close(Some(frame));
        let _ = self.0.flush();
    }
}

/// The close code for a peer that breaks the protocol.
fn complaint(error: &Error) -> CloseCode {
    match error {
        Error::Capacity(_) => CloseCode::Size,
        Error::Utf8(_) => CloseCode::Invalid,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseCode::Away,
        _ => CloseCode::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short masked frame, as clients send them; the mask is zero.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn a_ping_in_pieces_is_answered_whole() {
        let mut inbound = Inbound::new();
        let ping = frame(0x89, b"hello");
        for byte in &ping[..ping.len() - 1] {
            assert_eq!(inbound.hear(&[*byte]), Heard::Nothing);
            assert!(inbound.outbox().is_empty());
        }
        assert_eq!(inbound.hear(&ping[ping.len() - 1..]), Heard::Nothing);
        assert_eq!(inbound.outbox().as_slice(), b"\x8a\x05hello");
    }

    #[test]
    fn a_close_is_answered_and_ends_the_connection() {
        let mut inbound = Inbound::new();
        assert_eq!(inbound.hear(&frame(0x88, &[3, 232])), Heard::Close);
        assert_eq!(inbound.outbox().as_slice(), [0x88, 2, 3, 232]);
    }

    #[test]
    fn our_close_waits_for_the_answer() {
        let mut inbound = Inbound::new();
        inbound.close(CloseCode::Library(4008), "behind");
        assert_eq!(inbound.outbox().as_slice(), b"\x88\x08\x0f\xa8behind");
        assert_eq!(inbound.hear(&frame(0x81, b"late")), Heard::Nothing);
        assert_eq!(inbound.hear(&frame(0x88, &[15, 168])), Heard::Close);
    }

    #[test]
    fn messages_are_ignored_up_to_a_bound() {
        let mut inbound = Inbound::new();
        assert_eq!(inbound.hear(&frame(0x81, b"hello")), Heard::Nothing);
        assert!(inbound.outbox().is_empty());
        let huge = [0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(inbound.hear(&huge), Heard::Close);
        assert_eq!(inbound.outbox()[0], 0x88);
        assert_eq!(inbound.outbox()[2..4], [3, 241]);
    }

    #[test]
    fn what_is_no_frame_is_a_protocol_error() {
        let mut inbound = Inbound::new();
        assert_eq!(inbound.hear(b"GET / HTTP/1.1\r\n\r\n"), Heard::Close);
        assert_eq!(inbound.outbox()[2..4], [3, 234]);
    }
}
