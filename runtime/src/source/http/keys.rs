//! Idempotency keys: which posts have been taken before.
//!
//! Owns what a key means, and for how long: as long as the journal keeps the records of its post, and
//! longer where there are few. What a post is about to become, the range of its positions, is written down
//! and synced before the engine has a record of it; how far the journal got then tells, whenever the
//! process ended, how much of the post it has. `keys_file` keeps it beside a journal on disk, and
//! `keys_table` beside one in memory. Called by `desk`.

use std::collections::HashMap;
use std::sync::Arc;

use super::intent::{Intent, Key};
use super::keep::{Forgetting, Keep, KeysError};
use super::outcome::Outcome;
use crate::metrics::Metrics;

/// Keys that are known although the journal keeps nothing of their posts: a push has confirmed them long
/// before whoever missed the answer asks again.
const KEPT: u64 = 100_000;

/// What a key means for a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is to be taken, but for so many of its first records, which were.
    Take(u64),
    /// It was taken, and became this.
    Taken(Outcome),
    /// It is being taken now.
    Busy,
    /// The key was given to something else.
    Differs,
}

/// See the module.
pub(super) struct Keys {
    keep: Box<dyn Keep>,
    /// See [`KEPT`].
    kept: u64,
    /// Most keys that are known (I4).
    keys_max: u64,
    /// What is taken now, by name.
    open: HashMap<u128, Key>,
    /// What became of those that were taken since something was written, by name: no more than were in
    /// flight then (I4).
    settled: HashMap<u128, (Intent, Outcome)>,
    /// The journal keeps no record before this position.
    forgotten: u64,
    metrics: Arc<Metrics>,
}

impl Keys {
    /// Goes on with what is kept.
    pub(super) fn new(keep: Box<dyn Keep>, keys_max: u64, metrics: Arc<Metrics>) -> Self {
        Self {
            keep,
            kept: KEPT,
            keys_max,
            open: HashMap::new(),
            settled: HashMap::new(),
            forgotten: 0,
            metrics,
        }
    }

    /// What a key means now; one that is to be taken is busy from here on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn claim(&mut self, key: Key) -> Result<Claim, KeysError> {
        if let Some(open) = self.open.get(&key.name) {
            return Ok(match open.digest == key.digest {
                true => Claim::Busy,
                false => Claim::Differs,
            });
        }
        if let Some((intent, outcome)) = self.settled.get(&key.name) {
            return Ok(match intent.key.digest == key.digest {
                true => Claim::Taken(outcome.clone()),
                false => Claim::Differs,
            });
        }
        let mut taken = 0;
        if let Some(known) = self.keep.find(key.name)? {
            taken = known.taken();
            if known.key.digest != key.digest {
                return Ok(Claim::Differs);
            }
            if taken >= known.records {
                return Ok(Claim::Taken(self.keep.outcome(&known)?));
            }
        }
        self.open.insert(key.name, key);
        Ok(Claim::Take(taken))
    }

    /// Writes down what is about to be taken: positions up to `next`. What became of earlier ones is written
    /// with it, and what is to be forgotten goes.
    ///
    /// # Errors
    /// The file cannot be written: then nothing may be taken, with a key or without.
    pub(super) fn intend(&mut self, intents: &[Intent], next: u64) -> Result<(), KeysError> {
        let forgetting = Forgetting {
            before: self.forgotten,
            kept: self.kept,
            keys_max: self.keys_max,
            open: &self.open,
        };
        let settled = &mut self.settled.values();
        let early = self.keep.intend(intents, settled, next, forgetting)?;
        if !intents.is_empty() {
            self.settled.clear();
        }
        if early > 0 && self.metrics.keys_forgotten.get() == 0 {
            tracing::warn!(
                "keys of posts are forgotten although the journal keeps their records: there are more \
                 than `keys_max`, {}; what is posted again with one of them is taken again",
                self.keys_max
            );
        }
        self.metrics.keys_forgotten.add(early);
        Ok(())
    }

    /// All of the post is safe, and became this. It is written down with what comes next: that it was taken
    /// is already.
    pub(super) fn settle(&mut self, intent: Intent, outcome: Outcome) {
        self.open.remove(&intent.key.name);
        self.settled.insert(intent.key.name, (intent, outcome));
    }

    /// Nothing came of the post now: whoever posts it again begins where this one did.
    pub(super) fn release(&mut self, key: Key) {
        self.open.remove(&key.name);
    }

    /// Writes down the rest, and lets go of the file.
    pub(super) fn close(&mut self) {
        self.keep.close(&mut self.settled.values());
        self.settled.clear();
    }

    /// The journal keeps no record before `position` any more.
    pub(super) fn forget(&mut self, position: u64) {
        self.forgotten = position;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::keys_file::KeysFile;
    use super::super::keys_table::KeysTable;
    use super::*;

    const KEYS_MAX: u64 = 100;

    fn key(name: &str) -> Key {
        Key::new(name, "text/plain", b"body")
    }

    fn intent(name: &str, first: u64, last: u64) -> Intent {
        Intent {
            key: key(name),
            first,
            last,
            from: 0,
            records: last - first,
        }
    }

    fn over(keep: impl Keep + 'static) -> Keys {
        Keys::new(Box::new(keep), KEYS_MAX, Arc::default())
    }

    fn both(folder: &tempfile::TempDir) -> [Keys; 2] {
        [over(KeysTable::default()), open(folder, 0)]
    }

    fn path(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("posts")
    }

    fn open(folder: &tempfile::TempDir, position: u64) -> Keys {
        over(KeysFile::open(path(folder), position, false).unwrap())
    }

    impl Keys {
        fn meaning(&mut self, name: &str) -> Claim {
            self.claim(key(name)).unwrap()
        }

        fn take(&mut self, name: &str, first: u64, last: u64) {
            assert_eq!(self.meaning(name), Claim::Take(0), "{name}");
            let intent = intent(name, first, last);
            self.intend(&[intent], last).unwrap();
            let outcome = Outcome::recalled(intent.records);
            self.settle(intent, outcome);
        }
    }

    #[test]
    fn a_key_is_taken_once_and_is_of_one_body() {
        let folder = tempfile::tempdir().unwrap();
        for mut keys in both(&folder) {
            assert_eq!(keys.meaning("a"), Claim::Take(0));
            assert_eq!(keys.meaning("a"), Claim::Busy);
            let other = Key::new("a", "text/plain", b"other");
            assert_eq!(keys.claim(other).unwrap(), Claim::Differs);
            keys.release(key("a"));
            keys.take("a", 0, 3);
            // Before and after it was written down.
            for next in ["b", "c"] {
                assert_eq!(keys.meaning("a"), Claim::Taken(Outcome::recalled(3)));
                assert_eq!(keys.claim(other).unwrap(), Claim::Differs);
                keys.take(next, 3, 4);
            }
        }
    }

    /// Whatever the journal got of a post before a crash, posted again it adds the rest and no more.
    #[test]
    fn i1_how_far_the_journal_got_tells_what_is_left_of_a_post() {
        for (position, claims) in [
            (0, [Claim::Take(0), Claim::Take(0)]),
            (2, [Claim::Take(2), Claim::Take(0)]),
            (3, [Claim::Taken(Outcome::recalled(3)), Claim::Take(0)]),
            (4, [Claim::Taken(Outcome::recalled(3)), Claim::Take(1)]),
            (
                9,
                [
                    Claim::Taken(Outcome::recalled(3)),
                    Claim::Taken(Outcome::recalled(4)),
                ],
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut first = open(&folder, 0);
            assert_eq!(first.meaning("a"), Claim::Take(0));
            first
                .intend(&[intent("a", 0, 3), intent("b", 3, 7)], 7)
                .unwrap();
            drop(first);
            // A second crash at the same place finds the same.
            drop(open(&folder, position));
            let mut next = open(&folder, position);
            let claimed = [next.meaning("a"), next.meaning("b")];
            assert_eq!(claimed, claims, "{position}");
        }
    }

    #[test]
    fn i1_a_post_that_was_taken_in_parts_is_complete_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, 0).intend(&[intent("a", 0, 5)], 5).unwrap();
        let mut second = open(&folder, 2);
        assert_eq!(second.meaning("a"), Claim::Take(2));
        second.release(key("a"));
        assert_eq!(second.meaning("a"), Claim::Take(2));
        let rest = Intent {
            first: 2,
            last: 5,
            from: 2,
            records: 5,
            key: key("a"),
        };
        second.intend(&[rest], 5).unwrap();
        drop(second);
        // Of the rest nothing came, or some, or all.
        for (position, claim) in [(2, Claim::Take(2)), (4, Claim::Take(2))] {
            assert_eq!(open(&folder, position).meaning("a"), claim, "{position}");
        }
        let mut third = open(&folder, 4);
        assert_eq!(third.meaning("a"), Claim::Take(2));
        let rest = Intent {
            first: 4,
            last: 7,
            ..rest
        };
        third.intend(&[rest], 7).unwrap();
        drop(third);
        assert_eq!(open(&folder, 6).meaning("a"), Claim::Take(4));
        let mut last = open(&folder, 6);
        assert_eq!(last.meaning("a"), Claim::Take(4));
        let rest = Intent {
            first: 6,
            last: 7,
            from: 4,
            ..rest
        };
        last.intend(&[rest], 7).unwrap();
        drop(last);
        let taken = Claim::Taken(Outcome::recalled(5));
        assert_eq!(open(&folder, 7).meaning("a"), taken);
    }

    /// What was told of a post is told again by the next run, where it came to the disk.
    #[test]
    fn an_outcome_is_remembered_over_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = open(&folder, 0);
        keys.intend(&[intent("a", 0, 3)], 3).unwrap();
        let outcome = Outcome {
            accepted: Some(3),
            rejected: Some(Vec::new()),
            ..Outcome::recalled(3)
        };
        keys.settle(intent("a", 0, 3), outcome.clone());
        let taken = Claim::Taken(outcome);
        assert_eq!(keys.meaning("a"), taken);
        keys.take("b", 3, 4);
        drop(keys); // as after a crash: what came with the next is there
        let mut keys = open(&folder, 4);
        assert_eq!(keys.meaning("a"), taken);
        keys.close();
        assert_eq!(open(&folder, 4).meaning("a"), taken);
        let anew = KeysFile::open(path(&folder), 3, true).unwrap();
        assert_eq!(over(anew).meaning("a"), Claim::Take(0));
    }

    /// The retention of the journal is that of the keys: what it keeps a record of is known however many
    /// there are, and what it has dropped goes, but for the newest.
    #[test]
    fn i1_a_key_is_known_as_long_as_the_journal_keeps_its_records() {
        let folder = tempfile::tempdir().unwrap();
        for mut keys in both(&folder) {
            keys.kept = 10;
            for n in 0..50 {
                keys.take(&format!("k{n}"), n, n + 1);
            }
            assert!(matches!(keys.meaning("k0"), Claim::Taken(_)));
            keys.forget(30);
            // It goes with what is written anyway, a few at a time.
            for n in 50..70 {
                keys.take(&format!("k{n}"), n, n + 1);
            }
            for n in 0..70 {
                let is_known = matches!(keys.meaning(&format!("k{n}")), Claim::Taken(_));
                assert_eq!(is_known, n >= 30, "k{n}");
            }
            assert_eq!(keys.metrics.keys_forgotten.get(), 0);
        }
    }

    /// The newest are known where the journal keeps nothing, as one that pushes.
    #[test]
    fn the_newest_keys_are_known_whatever_the_journal_keeps() {
        let folder = tempfile::tempdir().unwrap();
        for mut keys in both(&folder) {
            keys.kept = 10;
            for n in 0..50 {
                keys.forget(n);
                keys.take(&format!("k{n}"), n, n + 1);
            }
            assert_eq!(keys.keep.count(), 10);
            assert!(matches!(keys.meaning("k40"), Claim::Taken(_)));
            assert_eq!(keys.meaning("k39"), Claim::Take(0));
            assert_eq!(keys.metrics.keys_forgotten.get(), 0);
        }
    }

    #[test]
    fn i4_keys_are_bounded_and_what_is_forgotten_early_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        for mut keys in both(&folder) {
            for n in 0..2 * KEYS_MAX {
                keys.take(&format!("k{n}"), n, n + 1);
                assert!(keys.keep.count() <= KEYS_MAX);
            }
            assert_eq!(keys.metrics.keys_forgotten.get(), KEYS_MAX);
            assert_eq!(keys.meaning("k0"), Claim::Take(0));
            assert!(matches!(keys.meaning("k199"), Claim::Taken(_)));
            // What waits for its answer is not forgotten.
            let all: Vec<Intent> = (0..2 * KEYS_MAX)
                .map(|n| intent(&format!("m{n}"), 200 + n, 201 + n))
                .collect();
            for one in &all {
                assert_eq!(keys.claim(one.key).unwrap(), Claim::Take(0));
            }
            keys.intend(&all, 400).unwrap();
            assert_eq!(keys.keep.count(), 2 * KEYS_MAX);
        }
    }

    /// Were what could not be synced believed later, a post would be taken for one that others' records
    /// stand in the place of.
    #[test]
    fn i1_where_a_key_cannot_be_written_down_nothing_is_taken_until_it_is_known_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (file, disk) = KeysFile::failing(path(&folder));
        let mut keys = over(file);
        keys.take("a", 0, 2);
        for cut in 0..40 {
            disk.fail_after(Some(cut));
            let name = format!("k{cut}");
            assert_eq!(keys.meaning(&name), Claim::Take(0));
            if keys.intend(&[intent(&name, 2, 5)], 5).is_ok() {
                assert!(cut > 2, "a commit is several writes");
                return;
            }
            keys.release(key(&name));
            // Not even what has no key: its positions would be those of what may have come to the disk.
            assert!(keys.intend(&[], 3).is_err(), "{cut}");
            disk.fail_after(None);
            assert_eq!(keys.meaning("a"), Claim::Taken(Outcome::recalled(2)));
            assert_eq!(keys.meaning(&name), Claim::Take(0), "{cut}");
            keys.release(key(&name));
        }
        panic!("it never worked");
    }
}
