//! The end of a connection, so that the peer reads the last thing that was said.
//!
//! Owns the order: our side ends first, and then what still comes is dropped until the peer has left. A
//! socket that is closed with something unread resets the line, and the peer may never read why. Called by
//! whoever has answered somebody who may be still sending.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// Longest wait for the peer to leave (I4).
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that are dropped at once.
const DROPPED_BYTES: usize = 16 * 1024;

/// See the module. Safe to drop while it waits.
///
/// # Errors
/// The connection is broken, or the peer does not leave in time.
pub async fn farewell(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let leave = async {
        stream.shutdown().await?;
        drop_what_comes(stream).await
    };
    timeout(PATIENCE, leave).await?
}

/// Reads until the peer has left, and handles nothing.
///
/// # Errors
/// The connection is broken.
pub async fn drop_what_comes(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut dropped = vec![0; DROPPED_BYTES];
    while stream.read(&mut dropped).await? > 0 {}
    Ok(())
}
