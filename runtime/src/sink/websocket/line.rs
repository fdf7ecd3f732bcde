//! A line that we dialled: the socket, what is to be written to it, and what was read.
//!
//! Owns the socket, and is its only writer: frames from the journal, and between two frames control
//! frames and the answers that `inbound` made. Decides nothing. Called by `client`, by `probe` for one
//! Ping, and by `subscription`, which has no frames to send.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::inbound::Inbound;
use super::outbound::{Control, Outbound};
use super::protocol::close;
use super::session::Piece;
use super::wire::{Io, Progress};
use crate::journal::{Chunk, Position};
use crate::sink::framing::Framing;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

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
    out: Outbound,
    /// What was read last.
    read: Box<[u8]>,
    /// Whether the kernel has what was written: TLS may hold the end of it back.
    flushed: bool,
    /// Every record below is with the kernel.
    written_to: Position,
    /// When the kernel last had everything: a line is idle from some time after it on.
    wrote_at: Option<Instant>,
    /// What had left when it was looked at last.
    left: u64,
}

/// What has become of what was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// Bytes left this machine since it was looked at last.
    pub(super) moved: bool,
    /// None of what was pushed is here any more.
    pub(super) all: bool,
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
            left: 0,
        })
    }

    /// How many bytes it takes: none while TLS still holds back what it was given, so that what is
    /// written is known from time to time, however slow the peer.
    pub(super) fn room(&self) -> u64 {
        if self.flushed { self.out.room() } else { 0 }
    }

    /// Appends a piece of a chunk to what is to be written.
    pub(super) fn push(&mut self, chunk: &Chunk, piece: &Piece, framing: &Framing) {
        self.out.push(chunk, piece, framing);
    }

    /// Appends a control frame to what is to be written.
    pub(super) fn push_control(&mut self, control: Control, payload: &[u8]) {
        self.out.push_control(control, payload);
    }

    /// Appends a text message of the client's own to what is to be written.
    pub(super) fn push_text(&mut self, text: &str) {
        self.out.push_text(text);
    }

    /// Appends whole frames that are not masked yet to what is to be written.
    pub(super) fn push_unmasked(&mut self, frames: &[u8]) {
        self.out.push_unmasked(frames);
    }

    /// Bytes that are to be written.
    pub(super) fn pending(&self) -> usize {
        self.out.pending().len()
    }

    /// Every record below is with the kernel.
    pub(super) fn written_to(&self) -> Position {
        self.written_to
    }

    /// Whether the kernel has everything.
    pub(super) fn is_drained(&self) -> bool {
        self.flushed && self.out.pending().is_empty()
    }

    /// Looks at what has left this machine since the last time.
    pub(super) fn leaving(&mut self) -> Leaving {
        let Progress { left, held } = self.io.progress();
        let before = std::mem::replace(&mut self.left, left);
        Leaving {
            moved: left > before,
            all: held == 0 && self.is_drained(),
        }
    }

    /// When the kernel last had everything.
    pub(super) fn wrote_at(&self) -> Option<Instant> {
        self.wrote_at
    }

    /// Appends the answers of `inbound` to what is to be written, where there is room: a peer that asks
    /// and never reads is answered up to a bound (I4). Returns whether there were any.
    pub(super) fn take_answers(&mut self) -> bool {
        if self.room() == 0 {
            return false;
        }
        let answers = self.inbound.take_outbox();
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

    /// Waits until bytes come in, whatever has become of the writing side. Safe to drop.
    pub(super) async fn heard(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_read(cx)).await
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

    /// Writes what the kernel takes at once.
    pub(super) fn write_now(&mut self) {
        let _ = poll_fn(|cx| self.poll_write(cx, true)).now_or_never();
    }

    /// Closes politely: says why, and waits for the peer's Close, for so long at most. A socket that is
    /// dropped while something is unread resets the line, and the peer may never read why.
    pub(super) async fn part(mut self, code: u16, reason: &str, patience: Duration) {
        let reason = &reason[..reason.floor_char_boundary(close::REASON_BYTES_MAX)];
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        self.push_control(Control::Close, &payload);
        let answered = async {
            loop {
                while let Some(said) = self.next() {
                    if matches!(said, Ok(Message::Close(_)) | Err(_)) {
                        return;
                    }
                }
                let moved = self.moved(true).await;
                if let Some(Err(_)) = moved.read.or(moved.wrote) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, answered).await;
    }

    /// Answers the peer's Close where the kernel takes it at once and no frame is half written.
    pub(super) fn answer_close(&mut self) {
        // The library makes its answer when it is asked for what comes after the Close.
        let _ = self.inbound.next();
        self.say_last();
    }

    /// Tells the peer how it broke the protocol, where that can be said as the answer to a Close can.
    pub(super) fn complain(&mut self, error: &WsError) {
        self.inbound.complain(error);
        self.say_last();
    }

    fn say_last(&mut self) {
        if self.out.is_at_boundary() {
            let answer = self.inbound.take_outbox();
            let _ = self.io.write_all(&answer).now_or_never();
            let _ = self.io.flush().now_or_never();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::journal::Frame;
    use crate::sink::framing::{Batching, Carrier};

    /// A socket whose every step is given beforehand; where nothing is given it waits.
    #[derive(Default)]
    struct Steps {
        flushes: VecDeque<io::Result<()>>,
        fails_to_write: bool,
        reads: VecDeque<&'static [u8]>,
        progress: Progress,
    }

    struct Scripted(Arc<Mutex<Steps>>);

    impl Io for Scripted {
        fn progress(&self) -> Progress {
            self.0.lock().unwrap().progress
        }
    }

    impl AsyncWrite for Scripted {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(match self.0.lock().unwrap().fails_to_write {
                true => Err(io::ErrorKind::ConnectionReset.into()),
                false => Ok(bytes.len()),
            })
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let flushed = self.0.lock().unwrap().flushes.pop_front();
            flushed.map_or(Poll::Pending, Poll::Ready)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Scripted {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.0.lock().unwrap().reads.pop_front() {
                None => Poll::Pending,
                Some(bytes) => {
                    buffer.put_slice(bytes);
                    Poll::Ready(Ok(()))
                }
            }
        }
    }

    fn line(steps: Steps) -> (Line, Arc<Mutex<Steps>>) {
        let steps = Arc::new(Mutex::new(steps));
        let connected = Connected {
            io: Box::new(Scripted(Arc::clone(&steps))),
            inbound: Inbound::of_server(1000),
            subprotocol: None,
        };
        (Line::new(connected, Position(7)).unwrap(), steps)
    }

    /// One record, at position 7.
    fn push_a_record(line: &mut Line) {
        let chunk = Chunk {
            first: Position(7),
            wire: b"\x81\x01x"[..].into(),
            frames: [Frame {
                wire_end: 3,
                payload_start: 2,
                records_end: 1,
            }][..]
                .into(),
            records: [(2, 3)][..].into(),
            ..Chunk::default()
        };
        let framing = Framing {
            carrier: Carrier::Text,
            batch: Batching::Record,
            envelope: false,
            frame_bytes_max: 100,
        };
        line.push(&chunk, &Piece::Frames(0..1), &framing);
    }

    #[tokio::test]
    async fn i1_what_tls_holds_back_is_not_written() {
        let (mut line, steps) = line(Steps::default());
        push_a_record(&mut line);
        assert!(line.moved(true).await.wrote.unwrap().is_ok());
        assert_eq!((line.pending(), line.is_drained()), (0, false));
        assert_eq!((line.written_to(), line.room()), (Position(7), 0));
        assert!(line.moved(true).now_or_never().is_none(), "it waits");
        steps.lock().unwrap().flushes.push_back(Ok(()));
        // Nothing more is to be written, and still it is passed on.
        assert!(line.moved(false).await.wrote.unwrap().is_ok());
        assert!(line.is_drained() && line.room() > 0);
        assert_eq!(line.written_to(), Position(8));
    }

    #[tokio::test]
    async fn what_the_kernel_holds_is_here_and_what_it_holds_less_has_left() {
        let (mut line, steps) = line(Steps::default());
        push_a_record(&mut line);
        let look = |line: &mut Line, left, held| {
            steps.lock().unwrap().progress = Progress { left, held };
            let Leaving { moved, all } = line.leaving();
            (moved, all)
        };
        assert_eq!(look(&mut line, 0, 0), (false, false), "not written yet");
        line.moved(true).await;
        assert_eq!(look(&mut line, 0, 0), (false, false), "TLS holds it back");
        steps.lock().unwrap().flushes.push_back(Ok(()));
        line.moved(true).await;
        assert_eq!(look(&mut line, 0, 7), (false, false), "the kernel has it");
        assert_eq!(look(&mut line, 4, 3), (true, false));
        assert_eq!(look(&mut line, 4, 3), (false, false), "it stands still");
        assert_eq!(look(&mut line, 7, 0), (true, true));
    }

    #[tokio::test]
    async fn what_came_before_writing_failed_is_not_lost() {
        let (mut line, _) = line(Steps {
            fails_to_write: true,
            reads: [&b"\x8a\x01a"[..], b"\x8a\x01b"].into(),
            ..Steps::default()
        });
        push_a_record(&mut line);
        let moved = line.moved(true).await;
        assert!(moved.wrote.unwrap().is_err() && moved.read.unwrap().is_ok());
        assert!(matches!(line.next(), Some(Ok(Message::Pong(pong))) if *pong == b"a"[..]));
        assert!(line.heard().await.is_ok());
        assert!(matches!(line.next(), Some(Ok(Message::Pong(pong))) if *pong == b"b"[..]));
        assert_eq!(line.written_to(), Position(7));
    }
}
