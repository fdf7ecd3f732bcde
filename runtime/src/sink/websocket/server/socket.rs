//! The socket of one subscriber, and what has to go out of it first.
//!
//! Owns the wire, and is its only writer: whole frames, in the order in which they were given. Never
//! holds a queue: what the kernel does not take stays in the journal, but for the rest of a frame and
//! what was said behind it. Decides nothing. Called by `subscriber`.

use std::io::{self, ErrorKind};

use tokio_tungstenite::tungstenite::{Error, Message};

use super::gathered::Gathered;
use super::wire::Wire;
use crate::sink::websocket::inbound::Inbound;

/// Reads after which others have their turn.
const READS: usize = 4;
/// Bytes of one read; a subscriber says little.
const READ_BYTES: usize = 4096;

/// See the module.
pub(super) struct Socket {
    wire: Wire,
    pub(super) inbound: Inbound,
    /// Bytes that must go out before anything else: of a frame that was cut, then whole frames.
    rest: Vec<u8>,
    rest_written: usize,
    /// The kernel took nothing at the last try.
    pub(super) blocked: bool,
}

impl Socket {
    /// The socket of a peer whose messages have `message_bytes_max` at most.
    pub(super) fn new(wire: Wire, message_bytes_max: usize) -> Self {
        Self {
            wire,
            inbound: Inbound::of_subscriber(message_bytes_max),
            rest: Vec::new(),
            rest_written: 0,
            blocked: false,
        }
    }

    /// Waits until bytes have come or the peer has left; where it is blocked, also until it is not.
    /// Returns whether there is something to read.
    pub(super) async fn ready(&mut self) -> io::Result<bool> {
        self.wire.ready(self.blocked).await
    }

    /// Reads what there is, for a turn at most; `hear` is called after each read, with whether it
    /// brought anything.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        let mut heard = false;
        for _ in 0..READS {
            match self.wire.try_read(&mut buffer) {
                // What came before the end is to be heard first.
                Ok(0) if heard => return Ok(true),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.inbound.feed(&buffer[..count]);
                    heard = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) if heard => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(heard)
    }

    /// The next message of what was read.
    pub(super) fn next(&mut self) -> Option<Result<Message, Error>> {
        self.inbound.next()
    }

    /// Takes whole frames that go out before anything else, behind those that were taken before.
    pub(super) fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.rest
    }

    /// Whether something has to go out before anything else. Between two frames the library's own
    /// control frames come first.
    pub(super) fn has_rest(&mut self) -> bool {
        if self.rest.is_empty() {
            self.rest = self.inbound.take_outbox();
        }
        !self.rest.is_empty()
    }

    /// Writes of the rest; true when all of it is out.
    pub(super) fn write_rest(&mut self) -> io::Result<bool> {
        self.rest_written += self.wire.try_write(&self.rest[self.rest_written..])?;
        self.blocked = false;
        let done = self.rest_written == self.rest.len();
        if done {
            // Not cleared: a subscriber that is idle is to hold no buffer.
            self.rest = Vec::new();
            self.rest_written = 0;
        }
        Ok(done)
    }

    /// Ends the connection as RFC 6455, section 7.1.1, wants it of a server: our side first, and then what
    /// still comes is dropped until the peer has left. A socket that is closed with something unread
    /// resets the line, and the peer may never read our Close.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn part(&mut self) -> io::Result<()> {
        self.wire.shut_down().await?;
        while !self.wire.ready(false).await? || self.drop_unread()? {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Drops what there is, for a turn at most; false at the end. Its buffer is on the stack, and not in
    /// what every subscriber holds.
    fn drop_unread(&mut self) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS {
            match self.wire.try_read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(_) => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes frames of the journal, and `tail` behind them. There must be no rest. Returns how many
    /// bytes the kernel took.
    pub(super) fn write(&mut self, gathered: &Gathered, tail: &[u8]) -> io::Result<usize> {
        debug_assert!(self.rest.is_empty());
        let wire = &mut self.wire;
        let written = gathered.write(tail, |slices| wire.try_write_vectored(slices))?;
        self.blocked = false;
        Ok(written)
    }
}
