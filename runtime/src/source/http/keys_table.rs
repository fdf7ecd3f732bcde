//! Keys in memory, where the journal is.
//!
//! Owns a map, and the order in which its posts were taken. Called by `keys`.

use std::collections::{HashMap, VecDeque};

use super::intent::Intent;
use super::keep::{Forgetting, Keep, KeysError, Settled};
use super::outcome::Outcome;

/// See the module.
#[derive(Default)]
pub(super) struct KeysTable {
    /// By the key's name, with what became of them.
    posts: HashMap<u128, (Intent, Option<Outcome>)>,
    /// Oldest first.
    taken: VecDeque<u128>,
}

impl KeysTable {
    fn forget(&mut self, forgetting: &Forgetting) -> u64 {
        let mut early = 0;
        while let Some(name) = self.taken.front()
            && let last = self.posts[name].0.last
            && let Some(is_early) = forgetting.lets_go(self.posts.len() as u64, last, *name)
        {
            self.posts.remove(name);
            self.taken.pop_front();
            early += u64::from(is_early);
        }
        early
    }
}

impl Keep for KeysTable {
    fn find(&mut self, name: u128) -> Result<Option<Intent>, KeysError> {
        Ok(self.posts.get(&name).map(|(intent, _)| *intent))
    }

    fn outcome(&mut self, of: &Intent) -> Result<Outcome, KeysError> {
        let post = self.posts.get(&of.key.name);
        let outcome = post.and_then(|(_, outcome)| outcome.clone());
        Ok(outcome.unwrap_or_else(|| Outcome::recalled(of.records)))
    }

    fn intend(
        &mut self,
        intents: &[Intent],
        settled: Settled,
        _: u64,
        forgetting: Forgetting,
    ) -> Result<u64, KeysError> {
        if intents.is_empty() {
            return Ok(0);
        }
        for (intent, outcome) in settled {
            if let Some((_, known)) = self.posts.get_mut(&intent.key.name) {
                *known = Some(outcome.clone());
            }
        }
        for intent in intents {
            self.posts.insert(intent.key.name, (*intent, None));
            self.taken.push_back(intent.key.name);
        }
        Ok(self.forget(&forgetting))
    }

    fn close(&mut self, _: Settled) {}

    #[cfg(test)]
    fn count(&mut self) -> u64 {
        self.posts.len() as u64
    }
}
