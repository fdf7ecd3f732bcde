//! What a peer says, and the control frames that answer it by themselves.
//!
//! Owns the WebSocket library's state of one connection, between two buffers instead of a socket: it is
//! fed what was read, and what it would write (a Pong, the answer to a Close) waits in `outbox` for the
//! one writer to send between two frames. Does no I/O. Used by both directions.

use std::io::{self, ErrorKind, Read, Write};

use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use super::protocol::close::REASON_BYTES_MAX;
use super::session::PING_BYTES;

/// The library's read buffer, which it allocates for each connection: small where there are thousands.
const SUBSCRIBER_BUFFER_BYTES: usize = 512;
const SERVER_BUFFER_BYTES: usize = 16 * 1024;
/// Most bytes of answers that are queued, and as many again inside the library: a peer that pings and
/// never reads is not answered beyond (I4).
const OUTBOX_BYTES_MAX: usize = 4096;

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
        // The library tries again when it reads the next frame; `take_outbox` sees to it before that.
        if self.outbox.len() >= OUTBOX_BYTES_MAX {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.outbox.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inbound {
    /// Of a subscriber, whose messages have `message_bytes_max` at most.
    pub(super) fn of_subscriber(message_bytes_max: usize) -> Self {
        Self::new(Role::Server, message_bytes_max, SUBSCRIBER_BUFFER_BYTES)
    }

    /// Of a server that was dialled, whose messages have `message_bytes_max` at most.
    pub(super) fn of_server(message_bytes_max: usize) -> Self {
        Self::new(Role::Client, message_bytes_max, SERVER_BUFFER_BYTES)
    }

    fn new(role: Role, message_bytes_max: usize, buffer_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(buffer_bytes)
            .write_buffer_size(0)
            .max_write_buffer_size(OUTBOX_BYTES_MAX)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let buffers = Buffers::default();
        Self(WebSocket::from_raw_socket(buffers, role, Some(config)))
    }

    /// Takes what was read; `next` tells what it means.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let buffers = self.0.get_mut();
        if buffers.taken == buffers.inbox.len() {
            buffers.inbox.clear();
            buffers.taken = 0;
        }
        buffers.inbox.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until more is fed. Pings are answered, in `outbox`. After an
    /// error, the end of a closing handshake among them, nothing more is to come.
    pub(super) fn next(&mut self) -> Option<Result<Message, Error>> {
        match self.0.read() {
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
            read => Some(read),
        }
    }

    /// Takes the control frames that wait to be sent, whole. What the library held back because there
    /// were too many of them follows.
    pub(super) fn take_outbox(&mut self) -> Vec<u8> {
        let outbox = std::mem::take(&mut self.0.get_mut().outbox);
        if !outbox.is_empty() {
            // Into the outbox, which is empty now: it fails only where the connection is at its end.
            let _ = self.0.flush();
        }
        outbox
    }

    /// Queues a Ping.
    pub(super) fn ping(&mut self, payload: [u8; PING_BYTES]) {
        // Fails once a Close was queued, and where the peer reads nothing: then a Ping would change nothing.
        let _ = self.0.send(Message::Ping(payload.to_vec().into()));
    }

    /// Queues a Close, unless there was one; a reason that is too long is cut.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let _ = self.0.close(Some(frame));
        let _ = self.0.flush();
    }

    /// Queues the Close that tells a peer how it broke the protocol, unless it has closed: which code is
    /// said of which error, by both roles.
    pub(super) fn complain(&mut self, error: &Error) {
        let code = match error {
            Error::Capacity(_) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        };
        self.close(code, &error.to_string());
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

    /// Feeds `bytes` and takes what they mean, up to the first error.
    fn hear(inbound: &mut Inbound, bytes: &[u8]) -> (Vec<Message>, Option<Error>) {
        inbound.feed(bytes);
        let mut messages = Vec::new();
        loop {
            match inbound.next() {
                None => return (messages, None),
                Some(Ok(message)) => messages.push(message),
                Some(Err(error)) => return (messages, Some(error)),
            }
        }
    }

    #[test]
    fn a_ping_in_pieces_is_answered_whole() {
        let mut inbound = Inbound::of_subscriber(16 * 1024);
        let ping = frame(0x89, b"hello");
        for byte in &ping[..ping.len() - 1] {
            assert!(hear(&mut inbound, &[*byte]).0.is_empty());
            assert!(inbound.take_outbox().is_empty());
        }
        let (heard, error) = hear(&mut inbound, &ping[ping.len() - 1..]);
        assert_eq!((heard.len(), error.is_none()), (1, true));
        assert_eq!(inbound.take_outbox(), b"\x8a\x05hello");
    }

    #[test]
    fn several_messages_of_one_read_come_one_after_the_other() {
        let mut inbound = Inbound::of_server(1000);
        let (heard, error) = hear(&mut inbound, b"\x81\x01a\x81\x01b\x81");
        assert_eq!(heard, [Message::text("a"), Message::text("b")]);
        assert!(error.is_none());
        assert_eq!(hear(&mut inbound, b"\x01c").0, [Message::text("c")]);
    }

    #[test]
    fn a_close_is_answered_and_ends_the_connection() {
        let mut inbound = Inbound::of_subscriber(16 * 1024);
        let (_, end) = hear(&mut inbound, &frame(0x88, &[3, 232]));
        assert!(matches!(end, Some(Error::ConnectionClosed)));
        assert_eq!(inbound.take_outbox(), [0x88, 2, 3, 232]);
    }

    #[test]
    fn our_close_waits_for_the_answer() {
        let mut inbound = Inbound::of_subscriber(16 * 1024);
        inbound.close(CloseCode::Library(4008), "behind");
        assert_eq!(inbound.take_outbox(), b"\x88\x08\x0f\xa8behind");
        assert!(hear(&mut inbound, &frame(0x81, b"late")).1.is_none());
        let (_, end) = hear(&mut inbound, &frame(0x88, &[15, 168]));
        assert!(matches!(end, Some(Error::ConnectionClosed)));
    }

    #[test]
    fn i4_messages_are_bounded_and_the_bound_is_told() {
        let mut inbound = Inbound::of_subscriber(16 * 1024);
        assert!(hear(&mut inbound, &frame(0x81, b"hello")).1.is_none());
        assert!(inbound.take_outbox().is_empty());
        let huge = [0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let (_, error) = hear(&mut inbound, &huge);
        inbound.complain(&error.unwrap());
        let close = inbound.take_outbox();
        assert_eq!((close[0], &close[2..4]), (0x88, &[3, 241][..]));
    }

    #[test]
    fn i4_a_peer_that_pings_and_never_reads_is_answered_up_to_a_bound() {
        let mut inbound = Inbound::of_subscriber(16 * 1024);
        let ping = |inbound: &mut Inbound, payload: &[u8]| {
            assert!(hear(inbound, &frame(0x89, payload)).1.is_none());
        };
        (0..10_000).for_each(|_| ping(&mut inbound, b"hello"));
        // Once it reads, all that is kept comes, and then the latest: without another frame from it.
        ping(&mut inbound, b"last!");
        let mut answers = Vec::new();
        loop {
            match inbound.take_outbox() {
                more if more.is_empty() => break,
                more => answers.extend(more),
            }
        }
        assert!(answers.len() < 3 * OUTBOX_BYTES_MAX, "{}", answers.len());
        assert!(answers.ends_with(b"\x8a\x05last!"));
    }

    #[test]
    fn what_is_no_frame_is_a_protocol_error() {
        let mut inbound = Inbound::of_subscriber(16 * 1024);
        let (_, error) = hear(&mut inbound, b"GET / HTTP/1.1\r\n\r\n");
        inbound.complain(&error.unwrap());
        assert_eq!(inbound.take_outbox()[2..4], [3, 234]);
    }
}
