//! Idempotency keys: which posts have been taken before.
//!
//! Owns a bounded table and, where the journal outlives a crash, the file behind it. What a post is about
//! to become, the range of its positions, is written down and synced before the engine has a record of it;
//! how far the journal got then tells, whenever the process ended, how much of the post it has. Called by
//! `desk`.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::outcome::Outcome;
use crate::files;
use crate::source::SourceError;

/// Longest key.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// A key, and what it was given to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    key: String,
    /// Of the body and its type.
    digest: String,
}

impl Key {
    /// The key of a post.
    pub(super) fn new(key: &str, content_type: &str, body: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(content_type.as_bytes());
        digest.update([0]);
        digest.update(body);
        let digest = digest.finalize();
        Self {
            key: key.to_owned(),
            digest: digest[..16]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        }
    }

    /// Whether a text can be a key.
    pub(super) fn is_one(text: &str) -> bool {
        let is_printable = |byte: u8| (b' '..=b'~').contains(&byte);
        (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_printable)
    }
}

/// A line of the file: positions `first..last` are the records of a post from its record `from` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    #[serde(flatten)]
    pub(super) key: Key,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) from: u64,
    /// Of the whole post.
    pub(super) records: u64,
}

/// What is known of a key.
#[derive(Clone, Debug)]
enum Known {
    /// Somebody waits for its answer.
    Open {
        digest: String,
        /// What an earlier run took of it.
        before: Option<Intent>,
        /// What is taken now.
        now: Option<Intent>,
    },
    /// Some of it was taken, and then the process ended.
    Part(Intent),
    /// All of it was taken.
    Done { intent: Intent, outcome: Outcome },
}

impl Known {
    fn digest(&self) -> &str {
        match self {
            Self::Open { digest, .. } => digest,
            Self::Part(intent) | Self::Done { intent, .. } => &intent.key.digest,
        }
    }

    /// What the file must have of it, in this order.
    fn intents(&self) -> impl Iterator<Item = &Intent> {
        let (before, now) = match self {
            Self::Open { before, now, .. } => (before.as_ref(), now.as_ref()),
            Self::Part(intent) | Self::Done { intent, .. } => (Some(intent), None),
        };
        before.into_iter().chain(now)
    }
}

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
    /// Most keys that are remembered (I4): those that were taken first are forgotten.
    keys_max: usize,
    known: HashMap<String, Known>,
    /// Those that nobody waits for, oldest first: what is forgotten where there are too many.
    kept: VecDeque<String>,
    log: Option<Log>,
}

/// The file, and how long it is.
struct Log {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Keys {
    /// In memory, and empty.
    pub(super) fn new(keys_max: usize) -> Self {
        Self {
            keys_max,
            known: HashMap::new(),
            kept: VecDeque::new(),
            log: None,
        }
    }

    /// Reads what an earlier run left in `path`. The journal has all records before `position`.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub(super) fn open(
        path: PathBuf,
        keys_max: usize,
        position: u64,
        fresh: bool,
    ) -> Result<Self, SourceError> {
        let failed = |path: &PathBuf, error| {
            SourceError::io(format!("remembering posts in {}", path.display()), error)
        };
        let text = match std::fs::read(&path) {
            _ if fresh => Vec::new(),
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&path, error)),
        };
        let mut keys = Self::new(keys_max);
        for line in text.split(|byte| *byte == b'\n') {
            // A last line that was cut off was never acted on.
            if let Ok(intent) = serde_json::from_slice(line) {
                keys.recall(intent, position);
            }
        }
        let log = keys.rewrite(path.clone());
        keys.log = Some(log.map_err(|error| failed(&path, error))?);
        Ok(keys)
    }

    fn recall(&mut self, mut intent: Intent, position: u64) {
        if intent.first >= position || intent.first >= intent.last {
            return; // the journal has nothing of it
        }
        intent.last = intent.last.min(position);
        let name = intent.key.key.clone();
        let taken = intent.from + (intent.last - intent.first);
        let known = if taken < intent.records {
            Known::Part(intent)
        } else {
            Known::Done {
                outcome: Outcome::recalled(intent.records),
                intent,
            }
        };
        // The rest of a post that was taken in parts has a line of its own, behind the first.
        if self.known.contains_key(&name) {
            self.kept.retain(|kept| *kept != name);
        }
        self.keep(name, known);
    }

    /// Nobody waits for the key now.
    fn keep(&mut self, name: String, known: Known) {
        self.known.insert(name.clone(), known);
        self.kept.push_back(name);
        if self.kept.len() > self.keys_max {
            let oldest = self.kept.pop_front();
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
    }

    /// What a key means now; one that is to be taken is busy from here on.
    pub(super) fn claim(&mut self, key: &Key) -> Claim {
        let before = match self.known.get(&key.key) {
            None => None,
            Some(known) if known.digest() != key.digest => return Claim::Differs,
            Some(Known::Open { .. }) => return Claim::Busy,
            Some(Known::Done { outcome, .. }) => return Claim::Taken(outcome.clone()),
            Some(Known::Part(intent)) => {
                self.kept.retain(|kept| *kept != key.key);
                Some(intent.clone())
            }
        };
        let taken = |intent: &Intent| intent.from + (intent.last - intent.first);
        let claim = Claim::Take(before.as_ref().map_or(0, taken));
        let open = Known::Open {
            digest: key.digest.clone(),
            before,
            now: None,
        };
        self.known.insert(key.key.clone(), open);
        claim
    }

    /// Writes down what is about to be taken.
    ///
    /// # Errors
    /// Whatever the file system refuses: then nothing may be taken.
    pub(super) fn intend(&mut self, intents: &[Intent]) -> io::Result<()> {
        let Some(log) = self.log.as_mut().filter(|_| !intents.is_empty()) else {
            return Ok(());
        };
        let mut text = Vec::new();
        for intent in intents {
            serde_json::to_writer(&mut text, intent).map_err(io::Error::other)?;
            text.push(b'\n');
        }
        // Behind a line that a failed write cut off, another would be unreadable as well.
        let written = log
            .file
            .write_all(&text)
            .and_then(|()| log.file.sync_data());
        if written.is_err() {
            let _ = log.file.write_all(b"\n");
        }
        written?;
        log.lines += intents.len();
        let is_long = log.lines > 3 * self.keys_max;
        let path = log.path.clone();
        for intent in intents {
            if let Some(Known::Open { now, .. }) = self.known.get_mut(&intent.key.key) {
                *now = Some(intent.clone());
            }
        }
        if is_long {
            self.log = Some(self.rewrite(path)?);
        }
        Ok(())
    }

    /// A file of what is known, in place of the one that there is.
    fn rewrite(&self, path: PathBuf) -> io::Result<Log> {
        let mut text = Vec::new();
        let mut lines = 0;
        let kept = self.kept.iter().filter_map(|name| self.known.get(name));
        let open = self.known.values();
        let open = open.filter(|known| matches!(known, Known::Open { .. }));
        for intent in kept.chain(open).flat_map(Known::intents) {
            serde_json::to_writer(&mut text, intent).map_err(io::Error::other)?;
            text.push(b'\n');
            lines += 1;
        }
        files::replace(&path, &text)?;
        let file = File::options().append(true).open(&path)?;
        Ok(Log { path, file, lines })
    }

    /// All of the post is safe, and became this.
    pub(super) fn settle(&mut self, intent: Intent, outcome: Outcome) {
        self.keep(intent.key.key.clone(), Known::Done { intent, outcome });
    }

    /// Nothing came of the post now: whoever posts it again begins where this one did.
    pub(super) fn release(&mut self, key: &Key) {
        let Some(Known::Open { before, .. }) = self.known.remove(&key.key) else {
            return;
        };
        if let Some(before) = before {
            self.keep(key.key.clone(), Known::Part(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS_MAX: usize = 100;

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

    fn open(folder: &tempfile::TempDir, position: u64) -> Keys {
        Keys::open(folder.path().join("posts"), KEYS_MAX, position, false).unwrap()
    }

    #[test]
    fn a_key_is_taken_once_and_is_of_one_body() {
        let mut keys = Keys::new(KEYS_MAX);
        assert_eq!(keys.claim(&key("a")), Claim::Take(0));
        assert_eq!(keys.claim(&key("a")), Claim::Busy);
        keys.release(&key("a"));
        assert_eq!(keys.claim(&key("a")), Claim::Take(0));
        let outcome = Outcome::recalled(3);
        keys.settle(intent("a", 0, 3), outcome.clone());
        assert_eq!(keys.claim(&key("a")), Claim::Taken(outcome));
        let other = Key::new("a", "text/plain", b"other");
        assert_eq!(keys.claim(&other), Claim::Differs);
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
            assert_eq!(first.claim(&key("a")), Claim::Take(0));
            first
                .intend(&[intent("a", 0, 3), intent("b", 3, 7)])
                .unwrap();
            drop(first);
            // A second crash at the same place finds the same.
            drop(open(&folder, position));
            let mut next = open(&folder, position);
            let claimed = [next.claim(&key("a")), next.claim(&key("b"))];
            assert_eq!(claimed, claims, "{position}");
        }
    }

    #[test]
    fn i1_a_post_that_was_taken_in_parts_is_complete_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, 0).intend(&[intent("a", 0, 5)]).unwrap();
        let mut second = open(&folder, 2);
        assert_eq!(second.claim(&key("a")), Claim::Take(2));
        second.release(&key("a"));
        assert_eq!(second.claim(&key("a")), Claim::Take(2));
        let rest = Intent {
            first: 2,
            last: 5,
            from: 2,
            records: 5,
            key: key("a"),
        };
        second.intend(&[rest]).unwrap();
        drop(second);
        assert_eq!(open(&folder, 4).claim(&key("a")), Claim::Take(4));
        assert_eq!(open(&folder, 4).claim(&key("a")), Claim::Take(4));
    }

    #[test]
    fn a_line_that_was_cut_off_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, 0)
            .intend(&[intent("a", 0, 1), intent("b", 1, 2)])
            .unwrap();
        let path = folder.path().join("posts");
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        let mut next = open(&folder, 1);
        assert_eq!(next.claim(&key("a")), Claim::Taken(Outcome::recalled(1)));
        assert_eq!(next.claim(&key("b")), Claim::Take(0));
    }

    #[test]
    fn i1_where_a_key_cannot_be_written_down_it_is_free_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = open(&folder, 0);
        let full = File::options().write(true).open("/dev/full").unwrap();
        keys.log.as_mut().unwrap().file = full;
        assert_eq!(keys.claim(&key("a")), Claim::Take(0));
        assert!(keys.intend(&[intent("a", 0, 1)]).is_err());
        keys.release(&key("a"));
        assert_eq!(keys.claim(&key("a")), Claim::Take(0));
    }

    /// Whoever posts half and never comes again must not be remembered for ever.
    #[test]
    fn i4_keys_of_posts_that_a_crash_cut_are_bounded_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("posts");
        let lines = (0..2 * KEYS_MAX as u64).map(|n| {
            let half = Intent {
                records: 9,
                ..intent(&format!("k{n}"), n, n + 1)
            };
            serde_json::to_string(&half).unwrap() + "\n"
        });
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let mut keys = open(&folder, u64::MAX);
        assert_eq!(keys.known.len(), KEYS_MAX);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), KEYS_MAX);
        // The newest are those that are left, and one that is taken up again is none of them.
        let newest = key(&format!("k{}", 2 * KEYS_MAX - 1));
        assert_eq!(keys.claim(&newest), Claim::Take(1));
        assert_eq!(keys.kept.len(), KEYS_MAX - 1);
        keys.release(&newest);
        assert_eq!(keys.kept.len(), KEYS_MAX);
        assert_eq!(keys.claim(&key("k0")), Claim::Take(0));
    }

    #[test]
    fn i4_keys_and_their_file_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = open(&folder, 0);
        // Without the file: a sync for each would take minutes.
        keys.log = None;
        for n in 0..2 * KEYS_MAX as u64 {
            let name = format!("k{n}");
            assert_eq!(keys.claim(&key(&name)), Claim::Take(0));
            keys.settle(intent(&name, n, n + 1), Outcome::recalled(1));
            assert!(keys.known.len() <= KEYS_MAX);
        }
        let log = keys.rewrite(folder.path().join("posts")).unwrap();
        assert_eq!(log.lines, KEYS_MAX);
        keys.log = Some(Log {
            lines: 3 * KEYS_MAX,
            ..log
        });
        // One that waits for its answer is not forgotten.
        assert_eq!(keys.claim(&key("last")), Claim::Take(0));
        keys.intend(&[intent("last", 1, 2)]).unwrap();
        let text = std::fs::read_to_string(folder.path().join("posts")).unwrap();
        assert_eq!(text.lines().count(), KEYS_MAX + 1);
    }
}
