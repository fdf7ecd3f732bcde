//! The protocol `wirefall.v1`: messages, places in a stream, and what either side makes of them.
//!
//! Owns what docs/protocol.md says, and its bounds (I4). Pure: bytes, times and the journal's facts in,
//! messages and decisions out; no socket, no clock. The sender's side is driven by `server` and `push`,
//! the receiver's by `subscription` and `receiver`; all speak the same messages, whoever dialled.

mod message;
mod place;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;
mod walk;

pub use message::{
    Ack, Bye, From, Gap, Heartbeat, Hello, Kind, Mark, Notice, Reason, Request, Subscribe, Wrong,
};
pub use place::{Place, Told, read as read_position};
pub use receiver::{Heard, Receiver, Wanted};
pub use sender::{Facts, Said, Sender, Start};
pub use walk::{Keys, Steps, Walk, alone};

/// The name of the subprotocol.
pub const V1: &str = "wirefall.v1";
/// The name of the subprotocol of frames without anything else; the same as asking for none.
pub const PLAIN: &str = "wirefall.plain";

/// Longest control message of a receiver.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest control message of a sender: a `hello` with a long name.
pub const NOTICE_BYTES_MAX: usize = 64 * 1024;
/// Most data frames between two marks.
pub const MARK_FRAMES_MAX: u64 = 1024;
/// Most records between two marks that a filter lets out: a place is found again by walking over them.
pub const MARK_RECORDS_MAX: u64 = 64 * 1024;
/// Most of `since`.
pub const SINCE_MAX: u64 = 1_000_000;
/// Most `keys`.
pub const KEYS_MAX: usize = 1000;
/// Longest of them.
pub const KEY_BYTES_MAX: usize = 256;

/// Whether a text may name a cursor.
pub fn is_name(text: &str) -> bool {
    place::is_text(text)
}

/// Close codes, and what each means: docs/protocol.md.
pub mod close {
    /// Longest reason of a Close: RFC 6455, section 5.5.
    pub const REASON_BYTES_MAX: usize = 123;
    /// Everything is sent, and nothing more comes.
    pub const END: u16 = 1000;
    /// The sender stops; come again at the place.
    pub const RESTART: u16 = 1012;
    /// The name could not be written down.
    pub const LATER: u16 = 1013;
    /// What comes next is no longer kept.
    pub const BEHIND: u16 = 4008;
    /// A control message is wrong.
    pub const WRONG: u16 = 4400;
    /// The credential is wrong.
    pub const UNKNOWN: u16 = 4401;
    /// The credential does not allow this.
    pub const FORBIDDEN: u16 = 4403;
    /// No `subscribe` in time.
    pub const SILENT: u16 = 4408;
    /// Another session took the name.
    pub const TAKEN: u16 = 4409;
    /// Too many sessions, or bytes.
    pub const TOO_MANY: u16 = 4429;
}
