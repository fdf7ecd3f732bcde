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
    /// Names that hold the journal.
    block: Vec<String>,
    /// How long one of them may hold it.
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
            if let Some(left) = left.clone() {
                journal.remember(
                    name,
                    Bookmark {
                        stays: true,
                        ..left
                    },
                );
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
            block: lag.block.clone(),
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
                self.remember(name, at, owner.clone());
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
        self.remember(name, at, entry.owner.clone());
    }

    fn remember(&self, name: &str, at: Position, owner: Option<Arc<str>>) {
        // A name that holds the journal is forgotten for no other.
        let stays = self.block.iter().any(|held| held == name);
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
mod tests {
    use super::*;
    use crate::journal::cursors::CURSORS_MAX;
    use crate::journal::memory::{Memory, Retention};
    use crate::journal::{Chunk, Frame};

    fn chunk() -> Chunk {
        Chunk {
            wire: vec![b'x'; 10].into(),
            frames: [Frame {
                wire_end: 10,
                payload_start: 0,
                records_end: 1,
            }][..]
                .into(),
            records: [(0, 10)][..].into(),
            ..Chunk::default()
        }
    }

    fn journal(chunks: u64) -> Memory {
        Memory::new(Retention {
            bytes_max: chunk().bytes() * chunks,
            age_max: None,
            history: true,
        })
    }

    fn names(journal: &Memory, deadline: Duration) -> Names {
        let lag = LagPlan {
            block: vec!["archive".to_owned()],
            deadline,
            ..LagPlan::default()
        };
        Names::new(&lag, Arc::new(journal.clone()), Arc::default())
    }

    async fn append(journal: &Memory, count: usize) {
        for _ in 0..count {
            journal.append(chunk(), Vec::new()).await.unwrap();
        }
    }

    /// As where no credentials are asked for.
    fn taken(names: &Names, name: &str) -> (Held, Option<Position>) {
        let taken = names.take(name, None, |_| unreachable!("nobody has one"));
        taken.expect("anybody's")
    }

    fn tail(journal: &Memory) -> Position {
        journal.marks().borrow().tail
    }

    #[tokio::test]
    async fn a_name_that_is_forgotten_holds_nothing_until_its_next_session() {
        let journal = journal(4);
        append(&journal, 2).await;
        journal.remember("archive", Position(1).into());
        let names = names(&journal, Duration::from_secs(30));
        let (held, _) = taken(&names, "archive");
        assert!(names.forget("archive").is_err(), "a session has it");
        names.leave(&held);
        assert!(names.forget("archive").ok().expect("nobody has it").await);
        assert!(!names.forget("archive").ok().expect("nobody has it").await);
        append(&journal, 6).await;
        assert_eq!(tail(&journal), Position(4));
        assert!(names.told().is_empty());
        let (held, remembered) = taken(&names, "archive");
        assert_eq!(remembered, None);
        names.begin(&held, Position(5));
        assert!(names.told()[0].holds, "again");
    }

    #[tokio::test]
    async fn i4_a_name_holds_from_where_an_earlier_run_left_it_until_the_deadline() {
        let journal = journal(4);
        append(&journal, 2).await;
        journal.remember("archive", Position(1).into());
        let deadline = Duration::from_secs(30);
        let names = names(&journal, deadline);
        append(&journal, 3).await;
        assert_eq!(tail(&journal), Position(1), "one could go, and one is held");
        let now = Instant::now();
        assert!(names.release(now) <= now + deadline);
        assert_eq!(names.metrics.holds_expired.get(), 0);
        names.release(now + deadline);
        assert_eq!(names.metrics.holds_expired.get(), 1);
        append(&journal, 3).await;
        assert_eq!(tail(&journal), Position(4));
        // It holds again from its next ack on.
        let (held, remembered) = taken(&names, "archive");
        assert_eq!(remembered, Some(Position(1)));
        names.acked(&held, Position(6));
        append(&journal, 2).await;
        assert_eq!(tail(&journal), Position(6));
    }

    #[tokio::test]
    async fn a_name_that_holds_the_journal_is_not_forgotten_for_others() {
        let journal = journal(4);
        let names = names(&journal, Duration::from_secs(30));
        let begin = |name: &str| {
            let (held, _) = taken(&names, name);
            names.begin(&held, Position(0));
            names.leave(&held);
        };
        begin("archive");
        for number in 0..=CURSORS_MAX {
            begin(&number.to_string());
        }
        assert!(journal.remembered("archive").is_some());
        assert!(journal.remembered("0").is_none());
    }

    #[tokio::test]
    async fn what_is_held_in_memory_is_lost_at_the_end_and_counted() {
        let journal = journal(4);
        let names = names(&journal, Duration::from_secs(30));
        names.end();
        let (held, _) = taken(&names, "archive");
        names.begin(&held, Position(0));
        append(&journal, 3).await;
        names.acked(&held, Position(1));
        names.leave(&held);
        let (other, _) = taken(&names, "holds nothing");
        names.begin(&other, Position(0));
        names.end();
        assert_eq!(names.metrics.records_lost.get(), 2);
    }

    #[tokio::test]
    async fn who_has_acknowledged_everything_is_never_too_slow() {
        let journal = journal(4);
        let names = names(&journal, Duration::from_secs(30));
        let (held, _) = taken(&names, "archive");
        names.begin(&held, Position(0));
        append(&journal, 2).await;
        names.acked(&held, Position(2));
        names.release(Instant::now() + Duration::from_secs(3600));
        assert_eq!(names.metrics.holds_expired.get(), 0);
    }

    #[tokio::test]
    async fn a_session_that_lost_its_name_moves_no_cursor() {
        let journal = journal(4);
        append(&journal, 3).await;
        let names = names(&journal, Duration::from_secs(30));
        let (first, _) = taken(&names, "other");
        names.begin(&first, Position(0));
        let (second, remembered) = taken(&names, "other");
        assert!(first.taken.is_cancelled() && !second.taken.is_cancelled());
        assert_eq!(remembered, Some(Position(0)));
        names.acked(&first, Position(2));
        names.leave(&first);
        names.acked(&second, Position(1));
        names.acked(&second, Position(0));
        assert_eq!(journal.remembered("other"), Some(Position(1).into()));
    }

    #[tokio::test]
    async fn a_name_belongs_to_the_credential_that_used_it_first() {
        let journal = journal(4);
        append(&journal, 3).await;
        let names = names(&journal, Duration::from_secs(30));
        let [a, b] = ["a", "b"].map(Arc::<str>::from);
        let all = |_: &str| true;
        for name in ["archive", "other"] {
            let (first, _) = names.take(name, Some(&a), all).expect("free");
            names.begin(&first, Position(0));
            let foreign = Foreign {
                owner: Arc::clone(&a),
            };
            assert_eq!(names.take(name, Some(&b), all).unwrap_err(), foreign);
            assert!(!first.taken.is_cancelled(), "it notices nothing");
            names.acked(&first, Position(2));
            names.leave(&first);
            assert_eq!(names.take(name, Some(&b), all).unwrap_err(), foreign);
            let (second, left) = names.take(name, Some(&a), all).expect("its own");
            assert_eq!(left, Some(Position(2)));
            names.leave(&second);
            // Once the first is revoked the name is free, and then the next one's.
            let (third, left) = names.take(name, Some(&b), |_| false).expect("free");
            assert_eq!(left, Some(Position(2)));
            names.leave(&third);
            assert_eq!(names.take(name, Some(&a), all).unwrap_err().owner, b);
        }
    }

    #[tokio::test]
    async fn a_name_of_an_earlier_run_is_still_its_owners() {
        let journal = journal(4);
        append(&journal, 3).await;
        let owner = Some(Arc::<str>::from("a"));
        for name in ["archive", "other"] {
            let owner = owner.clone();
            let bookmark = Bookmark {
                owner,
                ..Position(1).into()
            };
            journal.remember(name, bookmark);
        }
        journal.remember("of nobody", Position(1).into());
        let names = names(&journal, Duration::from_secs(30));
        let b = Arc::<str>::from("b");
        for name in ["archive", "other"] {
            assert!(names.take(name, Some(&b), |_| true).is_err(), "{name}");
            // Where no credentials are asked for any more, names are anybody's.
            let (held, left) = taken(&names, name);
            assert_eq!(left, Some(Position(1)));
            names.acked(&held, Position(2));
            let kept = journal.remembered(name).expect("a cursor");
            assert_eq!((kept.at, kept.owner), (Position(2), owner.clone()));
        }
        names.take("of nobody", Some(&b), |_| true).expect("free");
        let kept = journal.remembered("of nobody").expect("a cursor");
        assert_eq!(kept.owner, Some(b));
    }
}
