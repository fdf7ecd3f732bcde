//! Ports that others reach: who is let in, by which name, under which TLS.
//!
//! Owns what every listener has in common. Listens to nothing itself, and knows no stream and no record.
//! Used by the sink that publishes and by the source that is posted to.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use http::header::{HeaderMap, HeaderName};
use tokio::net::{TcpListener, TcpSocket};

pub mod answer;
pub mod gate;
pub mod hosts;
pub mod keys;
pub mod tls;
pub mod visitors;

/// Connections that the kernel holds until they are accepted, where it may hold so many. One beyond is
/// tried again after a second, so a flood of strangers would hold up others.
const BACKLOG: u32 = 4096;

/// The tokens of a header that is a list.
pub fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Listens on an address.
///
/// # Errors
/// Why not, in words.
pub fn bind(listen: SocketAddr) -> Result<TcpListener, String> {
    let bind = || -> io::Result<TcpListener> {
        let socket = match listen {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A port that was ours a moment ago can be ours again, as with the standard library's.
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {listen}: another process does; end it, or choose another port with \
             `listen:`"
        ),
        _ => format!("cannot listen on {listen}: {error}"),
    })
}
