//! The stream under a line, and how much of what was written to it has left this machine.
//!
//! Owns the count of what the kernel took and the question what it still holds: a slow line that moves
//! must not be taken for a dead one. Decides nothing. Made by `connect`, asked by `line`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A stream of any kind: TCP, or TLS over it.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    /// What has become of the bytes that were written.
    fn progress(&self) -> Progress;
}

/// What has become of the bytes that were written to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes that left: the peer's machine has them. Where the system does not tell, the kernel has.
    pub(super) left: u64,
    /// Bytes that the kernel still holds, as far as it tells.
    pub(super) held: u64,
}

/// A TCP connection that counts what the kernel took.
pub(super) struct Tcp {
    stream: TcpStream,
    taken: u64,
}

impl Tcp {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, taken: 0 }
    }

    fn took(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &wrote {
            self.taken += *bytes as u64;
        }
        wrote
    }
}

impl Io for Tcp {
    fn progress(&self) -> Progress {
        let held = held(&self.stream);
        Progress {
            left: self.taken.saturating_sub(held),
            held,
        }
    }
}

impl Io for TlsStream<Tcp> {
    fn progress(&self) -> Progress {
        self.get_ref().0.progress()
    }
}

/// Bytes in the kernel that the peer's kernel has not acknowledged: `SIOCOUTQ` of tcp(7).
#[cfg(target_os = "linux")]
fn held(stream: &TcpStream) -> u64 {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the request writes one int.
    let failed = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match failed {
        0 => bytes.try_into().unwrap_or(0),
        _ => 0,
    }
}

/// Other systems are not asked: what the kernel took counts as gone.
#[cfg(not(target_os = "linux"))]
fn held(_: &TcpStream) -> u64 {
    0
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.took(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.took(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What the peer does not read stays here, once its machine's buffer is full; what it reads leaves.
    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn what_the_peer_does_not_read_is_held_and_what_it_reads_has_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, (mut peer, _)) = (dialled.await.unwrap(), listener.accept().await.unwrap());
        let mut tcp = Tcp::new(dialled);
        let block = vec![0; 1 << 20];
        let mut written = 0;
        while let Some(wrote) = tcp.write(&block).now_or_never() {
            written += wrote.unwrap() as u64;
        }
        let full = tcp.progress();
        assert!(full.held > 0, "{full:?}");
        assert_eq!(full.left + full.held, written);
        let mut read = vec![0; written as usize];
        peer.read_exact(&mut read).await.unwrap();
        // The last acknowledgement may still be on its way.
        let gone = async {
            while tcp.progress().held > 0 {
                tokio::task::yield_now().await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
        assert!(gone.is_ok(), "{:?}", tcp.progress());
        assert_eq!(tcp.progress().left, written);
    }
}
