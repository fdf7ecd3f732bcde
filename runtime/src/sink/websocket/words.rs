//! How a connection ended, in words for people.
//!
//! Pure. Used wherever a connection is told to be lost.

use std::io::{self, ErrorKind};

use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// What the reading side of a socket ended with.
pub(super) fn of_read(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "the peer closed the connection without a Close".to_owned(),
        _ => error.to_string(),
    }
}

/// What a Close says.
pub(super) fn of_close(close: Option<&CloseFrame>) -> String {
    match close {
        None => "the peer closed it".to_owned(),
        Some(close) if close.reason.is_empty() => {
            format!("the peer closed it with code {}", close.code)
        }
        Some(close) => {
            // It ends up on a terminal.
            let reason = close.reason.replace(char::is_control, "\u{fffd}");
            format!("the peer closed it with code {}: {reason}", close.code)
        }
    }
}

/// What went wrong while reading, and what to do where that is known.
pub(super) fn of_error(error: &WsError) -> String {
    match error {
        WsError::Protocol(ProtocolError::NonZeroReservedBits) => {
            "the peer sends compressed messages, which were not agreed on; \
             turn permessage-deflate off at the peer"
                .to_owned()
        }
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            format!(
                "the peer sent a message of {size} bytes; the bound is {max_size} (`message_max`)"
            )
        }
        error => error.to_string(),
    }
}
