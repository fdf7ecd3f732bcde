//! Pins: what those who must see everything hold back.
//!
//! Owns which pins there are and where each is. Pure; the backends keep them behind their lock and ask
//! before they drop anything.

use std::collections::BTreeMap;

use super::Position;

/// All pins of a journal.
#[derive(Debug, Default)]
pub(super) struct Pins {
    by_id: BTreeMap<u64, Position>,
    made: u64,
}

impl Pins {
    /// A new pin, and its number.
    pub(super) fn add(&mut self, at: Position) -> u64 {
        let id = self.made;
        self.made += 1;
        self.by_id.insert(id, at);
        id
    }

    /// A pin has moved, or is gone.
    pub(super) fn moved(&mut self, id: u64, to: Option<Position>) {
        match to {
            Some(position) => self.by_id.insert(id, position),
            None => self.by_id.remove(&id),
        };
    }

    /// Whether none holds back what ends at `end`.
    pub(super) fn have_passed(&self, end: Position) -> bool {
        self.by_id.values().all(|pin| end <= *pin)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
