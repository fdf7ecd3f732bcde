//! Places in the journal: where a receiver starts, and where so many frames behind a position end.
//!
//! Owns the walks that `protocol` asks for. Reads the journal, moves and keeps nothing. Called by both
//! senders: `server` and `push`.

use super::protocol::{Facts, Start, Subscribe, Walk};
use crate::journal::{Journal, Position, Read};

/// Where a session starts: the position, whether that is where it was asked for, and how many records
/// are missing before it, where that is known.
pub(super) type Found = (Position, bool, Option<u64>);

/// Where `subscribe` starts; `remembered` is the receiver's cursor.
pub(super) fn start(
    journal: &dyn Journal,
    subscribe: &Subscribe,
    remembered: Option<Position>,
    frame_is_record: bool,
) -> Found {
    loop {
        let marks = *journal.marks().borrow();
        let facts = Facts {
            epoch: journal.epoch(),
            tail: marks.tail,
            head: marks.durable,
            frame_is_record,
        };
        let mut start = Start::of(subscribe, remembered, facts);
        if let Start::Behind(steps) = start {
            let mut walk = Walk::new(steps, subscribe.keys.as_ref());
            start = match walked(journal, &mut walk, facts.head) {
                Walked::To(to) => Start::walked(Some(to), facts),
                Walked::Beyond => Start::walked(None, facts),
                // Retention went on; now it is a position that is kept no more.
                Walked::Gone => continue,
            };
        }
        if let Start::At {
            from,
            resumed,
            lost,
        } = start
        {
            return (from, resumed, lost);
        }
    }
}

/// Where a walk led.
pub(super) enum Walked {
    To(Position),
    /// Beyond its bound.
    Beyond,
    /// The journal has not all of it any more.
    Gone,
}

/// Walks through the journal, not beyond `end`.
pub(super) fn walked(journal: &dyn Journal, walk: &mut Walk<'_>, end: Position) -> Walked {
    while !walk.is_done() {
        if walk.at() >= end || walk.is_lost() {
            return Walked::Beyond;
        }
        match journal.read(walk.at()) {
            Read::Chunk(chunk) => walk.over(&chunk),
            Read::Wait => return Walked::Beyond,
            Read::Lost { .. } => return Walked::Gone,
        }
    }
    match walk.at() <= end {
        true => Walked::To(walk.at()),
        false => Walked::Beyond,
    }
}
