//! One socket, two users of one task: the writer, and the library that reads frames.
//!
//! Owns the rule that only the writer writes: what the library wants to send by itself (a Pong, the
//! answer to a Close) is queued here and taken by the writer at a frame boundary.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of queued answers: a peer that pings and never reads is not answered beyond (I4).
const ANSWERS_BYTES_MAX: usize = 64 * 1024;

/// A stream of any kind: TCP, or TLS over it.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A handle on the stream. Both handles live in one task, so the lock is never waited for.
#[derive(Clone)]
pub(super) struct Socket(Arc<Mutex<Box<dyn Io>>>);

impl Socket {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        Self(Arc::new(Mutex::new(io)))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Io>> {
        self.0
            .lock()
            .expect("no code panics while it holds the socket")
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

/// What the library is given as its stream: it reads from the socket; once the handshake is done,
/// what it writes is queued.
pub(super) struct Inbound {
    socket: Socket,
    /// `None` during the handshake: then it writes through.
    answers: Option<Vec<u8>>,
}

impl Inbound {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            answers: None,
        }
    }

    /// From now on the writer owns the socket.
    pub(super) fn queue_answers(&mut self) {
        self.answers.get_or_insert_default();
    }

    /// Whole frames that the library wants to send, masked.
    pub(super) fn take_answers(&mut self) -> Vec<u8> {
        self.answers
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }
}

impl AsyncRead for Inbound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match &mut this.answers {
            None => Pin::new(&mut this.socket).poll_write(cx, bytes),
            // The library tries again when it reads the next frame; nobody has to wake it.
            Some(answers) if answers.len() >= ANSWERS_BYTES_MAX => Poll::Pending,
            Some(answers) => {
                answers.extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.answers {
            None => Pin::new(&mut self.socket).poll_flush(cx),
            Some(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
