//! The client's line: one connection's socket, what is to be written to it, and what was read.
//!
//! Owns the socket, and is its only writer: frames from the journal, and between two frames the control
//! frames of the session and the answers that `inbound` made. Decides nothing. Called by `client`, and
//! by `probe` for one Ping.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::inbound::Inbound;
use super::outbound::Outbound;
use crate::journal::Position;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

/// A stream of any kind: TCP, or TLS over it.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection after its handshake.
pub(super) struct Connected {
    pub(super) io: Box<dyn Io>,
    /// Has what was read beyond the handshake.
    pub(super) inbound: Inbound,
    /// The subprotocol that the peer chose.
    pub(super) subprotocol: Option<String>,
}

/// See the module.
pub(super) struct Line {
    io: Box<dyn Io>,
    inbound: Inbound,
    /// Whole frames that wait to be written.
    pub(super) out: Outbound,
    /// What was read last.
    read: Box<[u8]>,
    /// Whether the kernel has what was written: TLS may hold the end of it back.
    flushed: bool,
    /// Every record below is with the kernel.
    written_to: Position,
    /// When the kernel last had everything: a line is idle from some time after it on.
    wrote_at: Option<Instant>,
}

/// What moved; at least one of the two.
pub(super) struct Moved {
    /// Bytes went out, or failed to.
    pub(super) wrote: Option<io::Result<()>>,
    /// Bytes came in, to be taken with `next`; or the reading side ended.
    pub(super) read: Option<io::Result<()>>,
}

impl Line {
    /// A connection that goes on at `position` of the journal.
    ///
    /// # Errors
    /// The system has no random numbers for masks.
    pub(super) fn new(connected: Connected, position: Position) -> io::Result<Self> {
        Ok(Self {
            io: connected.io,
            inbound: connected.inbound,
            out: Outbound::new(position)?,
            read: vec![0; READ_BYTES].into(),
            flushed: true,
            written_to: position,
            wrote_at: None,
        })
    }

    /// Every record below is with the kernel.
    pub(super) fn written_to(&self) -> Position {
        self.written_to
    }

    /// Whether the kernel has everything.
    pub(super) fn is_drained(&self) -> bool {
        self.flushed && self.out.pending().is_empty()
    }

    /// When the kernel last had everything.
    pub(super) fn wrote_at(&self) -> Option<Instant> {
        self.wrote_at
    }

    /// Appends the answers of `inbound` to what is to be written, where there is room: a peer that asks
    /// and never reads is answered up to a bound (I4). Returns whether there were any.
    pub(super) fn take_answers(&mut self) -> bool {
        if self.out.room() == 0 {
            return false;
        }
        let answers = std::mem::take(self.inbound.outbox());
        self.out.push_ready(&answers);
        !answers.is_empty()
    }

    /// The next message of what was read.
    pub(super) fn next(&mut self) -> Option<Result<Message, WsError>> {
        self.inbound.next()
    }

    /// Waits until bytes move, in either direction; writes only if `write`. Safe to drop.
    pub(super) async fn moved(&mut self, write: bool) -> Moved {
        poll_fn(|cx| self.poll(cx, write)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, write: bool) -> Poll<Moved> {
        let wrote = self.poll_write(cx, write);
        let read = self.poll_read(cx);
        if wrote.is_pending() && read.is_pending() {
            return Poll::Pending;
        }
        let ready = |poll| match poll {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        };
        Poll::Ready(Moved {
            wrote: ready(wrote),
            read: ready(read),
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, write: bool) -> Poll<io::Result<()>> {
        let mut progress = Poll::Pending;
        if write && !self.out.pending().is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, self.out.pending()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => {
                    self.out.advance(bytes);
                    self.flushed = false;
                    progress = Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if !self.flushed && Pin::new(&mut self.io).poll_flush(cx)?.is_ready() {
            self.flushed = true;
            progress = Poll::Ready(Ok(()));
        }
        if progress.is_ready() && self.is_drained() {
            self.written_to = self.out.position();
            self.wrote_at = Some(Instant::now());
        }
        progress
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.read);
        let outcome = Pin::new(&mut self.io).poll_read(cx, &mut buffer)?;
        outcome.map(|()| match buffer.filled() {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                self.inbound.feed(bytes);
                Ok(())
            }
        })
    }

    /// Answers the peer's Close where the kernel takes it at once and no frame is half written.
    pub(super) fn answer_close(&mut self) {
        // The library makes its answer when it is asked for what comes after the Close.
        let _ = self.inbound.next();
        if self.out.is_at_boundary() {
            let answer = std::mem::take(self.inbound.outbox());
            let _ = self.io.write_all(&answer).now_or_never();
            let _ = self.io.flush().now_or_never();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::outbound::Control;
    use super::*;

    /// Takes everything at once and passes it on only when it is let, as TLS does over a full socket.
    struct HoldsBack {
        lets: Arc<AtomicBool>,
    }

    impl AsyncWrite for HoldsBack {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.lets.load(Ordering::Relaxed) {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for HoldsBack {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn i1_what_tls_holds_back_is_not_written() {
        let lets = Arc::new(AtomicBool::new(false));
        let connected = Connected {
            io: Box::new(HoldsBack {
                lets: Arc::clone(&lets),
            }),
            inbound: Inbound::of_server(1000),
            subprotocol: None,
        };
        let mut line = Line::new(connected, Position(7)).unwrap();
        line.out.push_control(Control::Ping, b"x");
        assert!(line.moved(true).await.wrote.unwrap().is_ok());
        assert!(line.out.pending().is_empty() && !line.is_drained());
        assert!(line.wrote_at().is_none());
        assert!(line.moved(true).now_or_never().is_none(), "it waits");
        lets.store(true, Ordering::Relaxed);
        // Nothing more is to be written, and still it is passed on.
        assert!(line.moved(false).await.wrote.unwrap().is_ok());
        assert!(line.is_drained() && line.wrote_at().is_some());
    }
}
