//! What keeps keys: the interface of the file and of the table in memory.
//!
//! Owns which key goes next. Called by `keys`.

use std::collections::HashMap;

use super::intent::{Intent, Key};
use super::outcome::Outcome;

/// Where keys are kept.
pub(super) trait Keep: Send {
    /// The post that a key was given to, by the key's name.
    fn find(&mut self, name: u128) -> Result<Option<Intent>, KeysError>;

    /// What became of a post that was taken.
    fn outcome(&mut self, of: &Intent) -> Result<Outcome, KeysError>;

    /// Writes down and syncs what is about to be taken, up to position `next`, and with it what became of
    /// others; gives how many keys were forgotten early. Without intents it writes nothing.
    fn intend(
        &mut self,
        intents: &[Intent],
        settled: Settled,
        next: u64,
        forgetting: Forgetting,
    ) -> Result<u64, KeysError>;

    /// Writes down what became of the last ones, and lets go.
    fn close(&mut self, settled: Settled);

    /// How many are known.
    #[cfg(test)]
    fn count(&mut self) -> u64;
}

/// Posts, and what became of each.
pub(super) type Settled<'a> = &'a mut dyn Iterator<Item = &'a (Intent, Outcome)>;

/// Why keys cannot be read or written, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct KeysError(pub(super) String);

/// What may go.
pub(super) struct Forgetting<'a> {
    /// The journal has no record before this position.
    pub(super) before: u64,
    /// So many are known all the same.
    pub(super) kept: u64,
    pub(super) keys_max: u64,
    /// Those for whose posts somebody waits.
    pub(super) open: &'a HashMap<u128, Key>,
}

impl Forgetting<'_> {
    /// Whether the oldest of `count` keys, whose post ends at `last`, goes; and whether that is early.
    pub(super) fn lets_go(&self, count: u64, last: u64, name: u128) -> Option<bool> {
        let is_forgotten = last <= self.before;
        let goes = count > self.keys_max || is_forgotten && count > self.kept;
        (goes && !self.open.contains_key(&name)).then_some(!is_forgotten)
    }
}
