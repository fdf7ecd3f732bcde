//! The door of a port: connections, one after the other.
//!
//! Owns listening, and what happens where the system has no descriptor left: it is tried again, and told
//! once in a while. Knows nothing of who comes. Called by whoever listens.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;

use super::news::News;

/// Connections that the kernel holds until they are accepted, where it may hold so many. One beyond is
/// tried again after a second, so a flood of strangers would hold up others.
const BACKLOG: u32 = 4096;
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    failures: News,
}

impl Door {
    /// Listens on an address; port 0 takes a free one.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn open(listen: SocketAddr) -> Result<Self, String> {
        Self::listen(listen).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!(
                "cannot listen on {listen}: another process does; end it, or choose another port \
                 with `listen:`"
            ),
            _ => format!("cannot listen on {listen}: {error}"),
        })
    }

    /// The same, with the system's own word.
    ///
    /// # Errors
    /// Why not.
    pub fn listen(listen: SocketAddr) -> io::Result<Self> {
        let listener = bind(listen)?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            failures: News::default(),
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, and who comes by it. Safe to drop while it waits.
    pub async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(connection) => return connection,
                Err(error) => {
                    if self.failures.is_news() {
                        tracing::warn!(
                            "cannot accept a connection: {error} (further ones are not told for a minute)"
                        );
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = match listen {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A port that was ours a moment ago can be ours again, as with the standard library's.
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}
