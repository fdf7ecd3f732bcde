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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory::{Memory, Retention};
    use crate::journal::{Chunk, Frame};

    async fn journal(records: &[&str]) -> Memory {
        let journal = Memory::new(Retention {
            bytes_max: 1 << 20,
            age_max: None,
            history: true,
        });
        for record in records {
            let bytes = record.as_bytes();
            let chunk = Chunk {
                wire: bytes.to_vec().into(),
                frames: [Frame {
                    wire_end: bytes.len() as u32,
                    payload_start: 0,
                    records_end: 1,
                }]
                .into(),
                records: [(0, bytes.len() as u32)].into(),
                ..Chunk::default()
            };
            journal.append(chunk, Vec::new()).await.unwrap();
        }
        journal
    }

    #[tokio::test]
    async fn i1_only_what_a_message_names_is_confirmed() {
        let records = [r#"{"id":"a"}"#, "no json", r#"{"id":7}"#, r#"{"id":"a"}"#];
        let journal = journal(&records).await;
        let id = Replies::Id {
            pointer: "/ack".into(),
            id: "/id".into(),
        };
        let count = Replies::Count {
            pointer: "/seq".into(),
        };
        let find = |how, message: &str| {
            super::find(how, message.as_bytes(), &journal, Position(0)..Position(3))
        };
        for (how, message, reply) in [
            (&Replies::Order, "anything", Reply::Frames(1)),
            (&count, r#"{"seq":12}"#, Reply::Counted(12)),
            (&count, r#"{"seq":"12"}"#, Reply::Counted(12)),
            (&count, r#"{"seq":-1}"#, Reply::Nothing),
            (&count, r#"{"hello":1}"#, Reply::Nothing),
            (&count, "hello", Reply::Nothing),
            (&id, r#"{"ack":"a"}"#, Reply::Below(Position(1))),
            (&id, r#"{"ack":7}"#, Reply::Below(Position(3))),
            (&id, r#"{"ack":"7"}"#, Reply::Nothing),
            (&id, r#"{"nack":"a"}"#, Reply::Nothing),
        ] {
            assert_eq!(find(how, message), reply, "{how:?} {message}");
        }
        let late = super::find(&id, br#"{"ack":"a"}"#, &journal, Position(1)..Position(3));
        assert_eq!(late, Reply::Nothing, "not in flight");
    }
}
