//! Confirmation by the peer's own messages (`ack: message`).
//!
//! Owns the search for what a message confirms. Records are parsed only when a message names one, and
//! each once where the peer confirms in order.

use std::ops::Range;

use serde_json::Value;

use super::config::Replies;
use crate::journal::{Journal, Position, Read};

/// What a message confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Nothing: it is about something else.
    Nothing,
    /// So many frames more.
    Frames(u64),
    /// So many frames of this connection in all.
    Counted(u64),
    /// Every record below.
    Below(Position),
}

/// What `message` confirms of the records `in_flight`.
pub(super) fn find(
    how: &Replies,
    message: &[u8],
    journal: &dyn Journal,
    in_flight: Range<Position>,
) -> Reply {
    let value = |pointer: &str| {
        let message: Value = serde_json::from_slice(message).ok()?;
        message.pointer(pointer).cloned()
    };
    match how {
        Replies::Order => Reply::Frames(1),
        Replies::Count { pointer } => value(pointer)
            .and_then(|count| match count {
                Value::Number(number) => number.as_u64(),
                Value::String(text) => text.parse().ok(),
                _ => None,
            })
            .map_or(Reply::Nothing, Reply::Counted),
        Replies::Id { pointer, id } => value(pointer)
            .and_then(|wanted| record_with(&wanted, id, journal, in_flight))
            .map_or(Reply::Nothing, |position| Reply::Below(position.plus(1))),
    }
}

/// The first record in flight whose value at `id` is `wanted`.
fn record_with(
    wanted: &Value,
    id: &str,
    journal: &dyn Journal,
    in_flight: Range<Position>,
) -> Option<Position> {
    let mut position = in_flight.start;
    while position < in_flight.end {
        let Read::Chunk(chunk) = journal.read(position) else {
            return None;
        };
        let end = chunk.end().min(in_flight.end);
        while position < end {
            let record = chunk.record(position.since(chunk.first) as usize);
            let parsed: Option<Value> = serde_json::from_slice(record).ok();
            if parsed.as_ref().and_then(|record| record.pointer(id)) == Some(wanted) {
                return Some(position);
            }
            position = position.plus(1);
        }
    }
    None
}
