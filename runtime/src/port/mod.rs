//! Ports that others reach: who is let in, by which name, under which TLS.
//!
//! Owns what every listener has in common. Listens to nothing itself, and knows no stream and no record.
//! Used by the sink that publishes and by the source that is posted to.

use std::io::ErrorKind;
use std::net::SocketAddr;

use http::header::{HeaderMap, HeaderName};
use tokio::net::TcpListener;

pub mod answer;
pub mod gate;
pub mod hosts;
pub mod keys;
pub mod tls;
pub mod visitors;

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
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, String> {
    let bound = TcpListener::bind(listen).await;
    bound.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {listen}: another process does; end it, or choose another port with \
             `listen:`"
        ),
        _ => format!("cannot listen on {listen}: {error}"),
    })
}
