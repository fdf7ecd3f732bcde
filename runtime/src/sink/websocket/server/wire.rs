//! The bytes of one connection: as they are, or under TLS.
//!
//! Owns the socket, and knows no frame. `socket` tries to read and write and waits in between, which is
//! what lets it take the journal's frames without a copy; TLS is fitted to that, at the cost of a copy
//! into its records. A branch a call, and none of TLS's for those who do without.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};

use rustls::ServerConnection;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// A connection as hyper serves it.
pub(super) type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// See the module.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A socket, and the state of its encryption.
pub(super) struct Tls {
    tcp: TcpStream,
    connection: ServerConnection,
    /// Something may have been decrypted that was not read yet: the socket does not tell.
    unread: bool,
}

impl From<Stream> for Wire {
    fn from(stream: Stream) -> Self {
        match stream {
            Either::Left(tcp) => Self::Plain(tcp),
            Either::Right(tls) => {
                let (tcp, connection) = tls.into_inner();
                Self::Tls(Box::new(Tls {
                    tcp,
                    connection,
                    unread: true,
                }))
            }
        }
    }
}

impl Wire {
    /// Waits until bytes have come or the peer has left, and where `writable` also until the kernel takes
    /// some. Returns whether there is something to read.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn ready(&mut self, writable: bool) -> io::Result<bool> {
        let tls = match self {
            Self::Plain(tcp) => return ready(tcp, writable).await,
            Self::Tls(tls) if tls.unread => return Ok(true),
            Self::Tls(tls) => tls,
        };
        let readable = ready(&tls.tcp, writable || tls.connection.wants_write()).await?;
        match tls.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(readable),
        }
    }

    /// Reads what there is.
    ///
    /// # Errors
    /// `WouldBlock` where there is nothing yet.
    pub(super) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_read(buffer),
            Self::Tls(tls) => tls.try_read(buffer),
        }
    }

    /// Writes as much as is taken at once.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Tls(tls) => tls.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// The same with pieces that follow each other.
    ///
    /// # Errors
    /// The same.
    pub(super) fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write_vectored(pieces),
            Self::Tls(tls) => tls.try_write_vectored(pieces),
        }
    }

    /// Ends the writing side, once the kernel has all of it.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn shut_down(&mut self) -> io::Result<()> {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => {
                tls.connection.send_close_notify();
                while let Err(error) = tls.flush() {
                    match error.kind() {
                        ErrorKind::WouldBlock => tls.tcp.writable().await?,
                        _ => return Err(error),
                    }
                }
                &mut tls.tcp
            }
        };
        tcp.shutdown().await
    }
}

async fn ready(tcp: &TcpStream, writable: bool) -> io::Result<bool> {
    let interest = match writable {
        true => Interest::READABLE | Interest::WRITABLE,
        false => Interest::READABLE,
    };
    let ready = tcp.ready(interest).await?;
    Ok(ready.is_readable() || ready.is_read_closed())
}

impl Tls {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.unread = false,
                read => return read,
            }
            self.connection.read_tls(&mut Trying(&self.tcp))?;
            self.unread = true;
            if let Err(error) = self.connection.process_new_packets() {
                // The alert that says why.
                let _ = self.flush();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }

    /// Only what was encrypted before is out is more encrypted: the rest of one write is the bound.
    fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush()?;
        let taken = self.connection.writer().write_vectored(pieces)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Self {
            tcp, connection, ..
        } = self;
        while connection.wants_write() {
            connection.write_tls(&mut Trying(tcp))?;
        }
        Ok(())
    }
}

impl Drop for Tls {
    /// Tells the end, so that nobody takes it for a connection that was cut. Where the kernel takes no
    /// more, it does not.
    fn drop(&mut self) {
        self.connection.send_close_notify();
        let _ = self.flush();
    }
}

/// A socket where rustls expects one that may block.
struct Trying<'a>(&'a TcpStream);

impl io::Read for Trying<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl io::Write for Trying<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
