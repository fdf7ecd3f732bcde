//! Subscribers with names: who has a name now, how far it has acknowledged, and who holds the journal.
//!
//! Owns the pins of the names in `on_lag: block` and their deadlines (I4), that a name is in use once, and
//! that it belongs to the credential that used it first.
//! Never sends anything: `subscriber` is told by its token that its name was taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::lag::LagPlan;
use crate::driver::BoxFuture;
use crate::journal::{Bookmark, Cursor, Journal, Position, Read};
use crate::metrics::Metrics;

/// How often it is looked whether a name holds the journal for too long, where none is near its end.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// See the module.
pub(super) struct Names {
    journal: Arc<dyn Journal>,
    metrics: Arc<Metrics>,
    /// How long a name of `entries` may hold the journal.
    deadline: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names that are in use, and those that hold the journal, in use or not.
    entries: HashMap<String, Entry>,
    sessions: u64,
}

#[derive(Default)]
struct Entry {
    /// Everything below is safe with the subscriber; `None` before its first session ever.
    acked: Option<Position>,
    /// The credential that used the name first; `None` where none was shown so far.
    owner: Option<Arc<str>>,
    /// The session that has the name.
    holder: Option<(u64, CancellationToken)>,
    hold: Option<Hold>,
}

/// What a name of `on_lag: block` keeps.
struct Hold {
    /// `None`: it was too slow, and holds nothing until it acknowledges again.
    pin: Option<Cursor>,
    acked_at: Instant,
}

/// A session's right to a name.
#[derive(Debug)]
pub(super) struct Held {
    name: String,
    session: u64,
    /// Cancelled when another session takes the name.
    pub(super) taken: CancellationToken,
}

/// What is known of a name.
pub(super) struct Known {
    pub(super) name: String,
    pub(super) bookmark: Bookmark,
    /// A session has it now.
    pub(super) is_connected: bool,
    /// It holds the journal.
    pub(super) holds: bool,
}

/// The name is another credential's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// The ID of that one.
    pub(super) owner: Arc<str>,
}

/// A session has the name.
pub(super) struct InUse;

impl Names {
    /// No name is in use; those in `lag.block` hold the journal from where an earlier run left them.
    pub(super) fn new(lag: &LagPlan, journal: Arc<dyn Journal>, metrics: Arc<Metrics>) -> Self {
        let mut state = State::default();
        for name in &lag.block {
            let left = journal.remembered(name);
            let left = left.map(|left| Bookmark {
                stays: true,
                ..left
            });
            if let Some(left) = &left {
                journal.remember(name, left.clone());
            }
            let acked = left.as_ref().map(|left| left.at);
            let entry = Entry {
                acked,
                owner: left.and_then(|left| left.owner),
                holder: None,
                hold: Some(Hold {
                    pin: acked.map(|at| pin(&*journal, at)),
                    acked_at: Instant::now(),
                }),
            };
            state.entries.insert(name.clone(), entry);
        }
        Self {
            journal,
            metrics,
            deadline: lag.deadline,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds the names")
    }

    /// Gives the name to a new session of the credential `who`, and ends the one that had it. Returns its
    /// cursor, if it has one. `exists`: whether there is still a credential of an ID.
    ///
    /// # Errors
    /// The name is another credential's; whoever has it keeps it.
    pub(super) fn take(
        &self,
        name: &str,
        who: Option<&Arc<str>>,
        exists: impl Fn(&str) -> bool,
    ) -> Result<(Held, Option<Position>), Foreign> {
        let mut state = self.state();
        let (acked, mut owner) = match state.entries.get(name) {
            Some(entry) if entry.acked.is_some() => (entry.acked, entry.owner.clone()),
            _ => match self.journal.remembered(name) {
                Some(left) => (Some(left.at), left.owner),
                None => (None, None),
            },
        };
        if let Some(who) = who.filter(|who| owner.as_ref() != Some(who)) {
            if let Some(owner) = owner.filter(|owner| exists(owner)) {
                return Err(Foreign { owner });
            }
            owner = Some(Arc::clone(who));
            if let Some(at) = acked {
                let entry = state.entries.get(name);
                let stays = entry.is_some_and(|entry| entry.hold.is_some());
                let owner = owner.clone();
                self.journal.remember(name, Bookmark { at, owner, stays });
            }
        }
        state.sessions += 1;
        let session = state.sessions;
        let taken = CancellationToken::new();
        let entry = state.entries.entry(name.to_owned()).or_default();
        (entry.acked, entry.owner) = (acked, owner);
        if let Some((_, before)) = entry.holder.replace((session, taken.clone())) {
            before.cancel();
        }
        let held = Held {
            name: name.to_owned(),
            session,
            taken,
        };
        Ok((held, acked))
    }

    /// The name is at `at`, and the journal remembers it.
    fn put(&self, name: &str, entry: &mut Entry, at: Position) {
        entry.acked = Some(at);
        let (owner, stays) = (entry.owner.clone(), entry.hold.is_some());
        self.journal.remember(name, Bookmark { at, owner, stays });
    }

    /// The session starts at `from`. A name that had no cursor has one from here on, so that what is
    /// published while it is away before its first ack is not lost to it.
    pub(super) fn begin(&self, held: &Held, from: Position) {
        let mut state = self.state();
        let Some(entry) = state.entry_of(held) else {
            return;
        };
        let at = entry.acked.unwrap_or(from);
        if entry.acked.is_none() {
            self.put(&held.name, entry, from);
        }
        if let Some(hold) = &mut entry.hold
            && hold.pin.is_none()
        {
            hold.pin = Some(pin(&*self.journal, at));
            hold.acked_at = Instant::now();
        }
    }

    /// Resolves when the next process would know the name, however this one ends.
    pub(super) fn kept(&self, held: &Held) -> BoxFuture<'_, ()> {
        self.journal.bookmark_kept(&held.name)
    }

    /// Everything below `to` is safe with the session's subscriber. Going back means nothing.
    pub(super) fn acked(&self, held: &Held, to: Position) {
        let mut state = self.state();
        let Some(entry) = state.entry_of(held) else {
            return; // the name is another session's now
        };
        if entry.acked.is_some_and(|acked| to <= acked) {
            return;
        }
        self.put(&held.name, entry, to);
        if let Some(hold) = &mut entry.hold {
            hold.acked_at = Instant::now();
            match &mut hold.pin {
                Some(pin) => pin.advance(to),
                None => hold.pin = Some(pin(&*self.journal, to)),
            }
        }
    }

    /// All names that have a cursor, by name.
    pub(super) fn told(&self) -> Vec<Known> {
        let state = self.state();
        let names = self.journal.bookmarks().into_iter();
        let known = names.map(|(name, bookmark)| {
            let entry = state.entries.get(&name);
            Known {
                is_connected: entry.is_some_and(|entry| entry.holder.is_some()),
                holds: entry.is_some_and(|entry| {
                    let hold = entry.hold.as_ref();
                    hold.is_some_and(|hold| hold.pin.is_some())
                }),
                name,
                bookmark,
            }
        });
        known.collect()
    }

    /// Forgets a name that nobody has now, and gives what resolves when it stays forgotten, with whether there
    /// was one. One that holds the journal lets go of it until its next session.
    ///
    /// # Errors
    /// A session has it.
    pub(super) fn forget(&self, name: &str) -> Result<BoxFuture<'_, bool>, InUse> {
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(name) {
            if entry.holder.is_some() {
                return Err(InUse);
            }
            (entry.acked, entry.owner) = (None, None);
            if let Some(hold) = &mut entry.hold {
                hold.pin = None;
            }
        }
        Ok(self.journal.forget(name))
    }

    /// The session is over.
    pub(super) fn leave(&self, held: &Held) {
        let mut state = self.state();
        if let Some(entry) = state.entry_of(held) {
            entry.holder = None;
            if entry.hold.is_none() {
                state.entries.remove(&held.name);
            }
        }
    }

    /// Lets go of what names hold for too long; never returns.
    pub(super) async fn watch(&self) {
        if self.deadline.is_zero() {
            return std::future::pending().await; // nobody holds anything
        }
        loop {
            sleep_until(self.release(Instant::now())).await;
        }
    }

    /// Lets go of what is held for too long at `now`, and says when to look again. A hold that begins in
    /// between ends later than that.
    fn release(&self, now: Instant) -> Instant {
        let mut state = self.state();
        let holds = state
            .entries
            .iter_mut()
            .filter_map(|(name, entry)| Some((name, entry.acked?, entry.hold.as_mut()?)));
        let mut next = now + self.deadline.min(LOOK_EVERY);
        for (name, acked, hold) in holds.filter(|(_, _, hold)| hold.pin.is_some()) {
            let Some(since) = self.behind_since(acked, hold.acked_at) else {
                continue; // it has everything
            };
            let until = since + self.deadline;
            if until > now {
                next = next.min(until);
                continue;
            }
            hold.pin = None;
            self.metrics.holds_expired.add(1);
            tracing::warn!(
                name,
                "a subscriber held the journal for {:?} without an acknowledgement: it holds no more",
                self.deadline
            );
        }
        next
    }

    /// The run is over. A journal that ends with it takes along what is held in it: that is told, and
    /// counted.
    pub(super) fn end(&self) {
        if self.journal.survives_crash() {
            return;
        }
        let head = self.journal.marks().borrow().head;
        for (name, entry) in &self.state().entries {
            let holds = entry.hold.as_ref().is_some_and(|hold| hold.pin.is_some());
            let lost = entry.acked.map_or(0, |acked| head.since(acked));
            if holds && lost > 0 {
                self.metrics.records_lost.add(lost);
                tracing::warn!(
                    name,
                    lost,
                    "a subscriber has not acknowledged everything, and the journal in memory ends with the run; `journal: {{ driver: disk }}` keeps it"
                );
            }
        }
    }

    /// Since when there is something that a name could have acknowledged and has not.
    fn behind_since(&self, acked: Position, acked_at: Instant) -> Option<Instant> {
        match self.journal.read(acked) {
            Read::Wait => None,
            Read::Lost { .. } => Some(acked_at),
            Read::Chunk(chunk) => {
                let made_at = chunk.made_at.map(Instant::from_std);
                Some(made_at.map_or(acked_at, |made_at| made_at.max(acked_at)))
            }
        }
    }
}

impl State {
    fn entry_of(&mut self, held: &Held) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&held.name)?;
        let holds = entry.holder.as_ref().map(|(session, _)| *session) == Some(held.session);
        holds.then_some(entry)
    }
}

/// A pin at `at`, or at the oldest kept where that is gone.
fn pin(journal: &dyn Journal, at: Position) -> Cursor {
    let tail = journal.marks().borrow().tail;
    journal.pin(at.max(tail))
}

#[cfg(test)]
mod tests;
