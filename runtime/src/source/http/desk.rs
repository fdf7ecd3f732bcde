//! The desk: who waits for which records.
//!
//! Owns the posts between the moment in which they are taken and their answer. Says what is safe only
//! when the engine says so (I1). Called by `serve`, by the reader and by the committer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::body::Cut;
use super::intent::{Intent, Key};
use super::keys::{Claim, Keys};
use super::outcome::{Outcome, Rejected};

/// Most rejections that an answer tells one by one (I4); `accepted` counts all.
const REJECTED_MAX: usize = 1000;
/// Longest reason of one.
const REASON_BYTES_MAX: usize = 512;

/// Where whoever posts is told.
type Told = oneshot::Sender<Result<Outcome, Untaken>>;

/// A post on its way to the reader.
pub(super) struct Posted {
    pub(super) records: Cut,
    pub(super) key: Option<Key>,
    /// How many of its records were taken by an earlier run, and are not among `records`.
    pub(super) from: u64,
    pub(super) answer: Told,
    /// Its share of what may be in flight.
    pub(super) held: Vec<OwnedSemaphorePermit>,
}

/// A post that the engine has.
struct Waiting {
    first: u64,
    last: u64,
    from: u64,
    key: Option<Key>,
    failed: u64,
    rejected: Vec<Rejected>,
    answer: Told,
    _held: Vec<OwnedSemaphorePermit>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Desk(Arc<Mutex<State>>);

struct State {
    /// `None` once nothing more is taken.
    posts: Option<mpsc::UnboundedSender<Posted>>,
    /// By position.
    waiting: VecDeque<Waiting>,
    keys: Keys,
}

/// Why a post is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    /// The run ends.
    Closed,
    /// The same post waits for its answer.
    Busy,
    /// Its key was given to another.
    Differs,
    /// The keys cannot be read or written now; the log says why.
    Unkept,
}

/// What a post gets.
pub(super) enum Post {
    /// A wait for its outcome; an error where the run ends before it is known.
    Waits(oneshot::Receiver<Result<Outcome, Untaken>>),
    /// It was taken before.
    Taken(Outcome),
}

impl Desk {
    pub(super) fn new(posts: mpsc::UnboundedSender<Posted>, keys: Keys) -> Self {
        Self(Arc::new(Mutex::new(State {
            posts: Some(posts),
            waiting: VecDeque::new(),
            keys,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it is held")
    }

    /// Posts records.
    pub(super) fn post(
        &self,
        mut records: Cut,
        key: Option<Key>,
        held: Vec<OwnedSemaphorePermit>,
    ) -> Result<Post, Untaken> {
        let mut state = self.state();
        let Some(posts) = state.posts.clone() else {
            return Err(Untaken::Closed);
        };
        let mut from = 0;
        if let Some(key) = &key {
            match state.keys.claim(*key).map_err(|_| Untaken::Unkept)? {
                Claim::Take(done) => from = done,
                Claim::Taken(outcome) => return Ok(Post::Taken(outcome)),
                Claim::Busy => return Err(Untaken::Busy),
                Claim::Differs => return Err(Untaken::Differs),
            }
        }
        records.skip(from);
        let (answer, waits) = oneshot::channel();
        let posted = Posted {
            records,
            key,
            from,
            answer,
            held,
        };
        // A reader that is gone drops it, and that is the answer.
        let _ = posts.send(posted);
        Ok(Post::Waits(waits))
    }

    /// Takes posts in, of which the first begins at `position`: gives the records of each. Where it cannot
    /// be written down what they are about to become, none is taken.
    pub(super) fn take_in(&self, posts: Vec<Posted>, position: u64) -> Vec<Cut> {
        let mut first = position;
        let mut all = Vec::with_capacity(posts.len());
        let mut waiting = Vec::with_capacity(posts.len());
        for post in posts {
            let last = first + post.records.len() as u64;
            all.push(post.records);
            waiting.push(Waiting {
                first,
                last,
                from: post.from,
                key: post.key,
                failed: 0,
                rejected: Vec::new(),
                answer: post.answer,
                _held: post.held,
            });
            first = last;
        }
        let mut state = self.state();
        let intents: Vec<Intent> = waiting.iter().filter_map(Waiting::intent).collect();
        if state.keys.intend(&intents, first).is_err() {
            for one in waiting {
                one.key.into_iter().for_each(|key| state.keys.release(key));
                let _ = one.answer.send(Err(Untaken::Unkept)); // whoever is gone posts again, or does not
            }
            return Vec::new();
        }
        state.waiting.extend(waiting);
        all
    }

    /// The record before which `position` is did not come through.
    pub(super) fn failed(&self, position: u64, reason: &str) {
        let mut state = self.state();
        let index = state.waiting.partition_point(|one| one.last <= position);
        let Some(one) = state.waiting.get_mut(index) else {
            return;
        };
        one.failed += 1;
        if one.rejected.len() < REJECTED_MAX && position >= one.first {
            let index = position - one.first + one.from;
            let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
            one.rejected.push(Rejected {
                index,
                reason: reason.to_owned(),
            });
        }
    }

    /// All records before `position` are safe: those who wait for them are answered.
    pub(super) fn settle(&self, position: u64) {
        let mut state = self.state();
        while let Some(one) = state.waiting.pop_front_if(|one| one.last <= position) {
            let mut rejected = one.rejected.clone();
            rejected.sort_by_key(|one| one.index);
            let records = one.from + (one.last - one.first);
            // What failed of those before `from` an earlier run has told nobody.
            let is_whole = one.from == 0;
            let outcome = Outcome {
                records,
                accepted: is_whole.then_some(records - one.failed),
                rejected: is_whole.then_some(rejected),
                replayed: false,
            };
            if let Some(intent) = one.intent() {
                state.keys.settle(intent, outcome.remembered());
            }
            // Whoever is gone asks again with the key, or does not.
            let _ = one.answer.send(Ok(outcome));
        }
    }

    /// The journal keeps no record before `position` any more.
    pub(super) fn forget(&self, position: u64) {
        self.state().keys.forget(position);
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.state().posts = None;
    }

    /// Whether nothing more is taken.
    pub(super) fn is_closed(&self) -> bool {
        self.state().posts.is_none()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Nobody will say any more what is safe: those who wait are told so.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.posts = None;
        state.waiting.clear();
        state.keys.close();
    }
}

impl Waiting {
    fn intent(&self) -> Option<Intent> {
        Some(Intent {
            key: self.key?,
            first: self.first,
            last: self.last,
            from: self.from,
            records: self.from + (self.last - self.first),
        })
    }
}
