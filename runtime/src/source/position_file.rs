//! The position file: what a source that cannot ask its origin remembers between runs.
//!
//! Owns one JSON file in the state folder, replaced atomically, and the trail that leads from a position
//! to the file that it is in: one that is still the same, or a position would skip what was never
//! delivered (I1). Used by `file`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Committer, SourceError};
use crate::checkpoint::Checkpoint;
use crate::driver::BoxFuture;
use crate::files;
use crate::record::Partition;

/// How many first bytes tell whether a file is still the same.
pub const HEAD_BYTES: usize = 1024;

/// What tells a file from others, whatever it is called. Either alone would not do: a file system gives
/// the inode of a deleted file to the next one, and two files may begin alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number in the file system.
    pub inode: u64,
    /// How many of its first bytes `head` is a digest of: no more than were read, because a file that
    /// grows keeps those and no others.
    pub head_bytes: u64,
    /// See `head_bytes`.
    pub head: String,
}

impl Identity {
    /// The identity of a file that begins with `head`.
    pub fn new(inode: u64, head: &[u8]) -> Self {
        let digest = Sha256::digest(head);
        Self {
            inode,
            head_bytes: head.len() as u64,
            head: digest[..8]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        }
    }
}

/// What is remembered of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Where to go on in `file`.
    pub position: u64,
    /// The partition's position there, if it is another: files came before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The file in which the first unsettled record is.
    pub file: Identity,
    /// The files that took its place since and are not settled either, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Identity>,
}

impl Remembered {
    /// The partition's position where it goes on.
    pub fn at(&self) -> u64 {
        self.at.unwrap_or(self.position)
    }
}

/// Remembered positions, by partition name.
pub type Positions = BTreeMap<String, Remembered>;

/// Which files the positions of each partition lead through, and the file that remembers it. Shared by
/// the reader, who tells which files there are, and the committer, who forgets those that are settled.
#[derive(Clone)]
pub struct Trail(Arc<Mutex<State>>);

struct State {
    path: PathBuf,
    /// Locked while it is open: two runs that share positions would each skip what the other has read.
    _lock: File,
    known: Positions,
    /// Oldest first: the files that are read or to be read and not settled.
    files: HashMap<Partition, VecDeque<Found>>,
    /// All of a partition below is settled.
    settled: HashMap<Partition, u64>,
}

/// A file on the trail.
struct Found {
    identity: Identity,
    /// Where it is to be read from.
    offset: u64,
    /// The partition's position there, of the first that is to be read.
    at: u64,
    /// The partition's position at the file's first byte; unknown before it is read.
    base: Option<u64>,
}

impl State {
    /// Brings what is known of a partition up to date.
    fn remember(&mut self, partition: &Partition) {
        let settled = self.settled.get(partition).copied();
        let Some(files) = self.files.get_mut(partition) else {
            return; // not opened yet: what the last run left still holds
        };
        while let Some(base) = files.get(1).and_then(|next| next.base)
            && settled.is_some_and(|settled| settled >= base)
        {
            files.pop_front();
        }
        let Some(first) = files.front() else {
            return;
        };
        let (position, at) = match (settled, first.base) {
            (Some(settled), Some(base)) => (settled.saturating_sub(base), settled),
            _ => (first.offset, first.at),
        };
        let remembered = Remembered {
            position,
            at: (at != position).then_some(at),
            file: first.identity.clone(),
            then: files
                .iter()
                .skip(1)
                .map(|file| file.identity.clone())
                .collect(),
        };
        self.known.insert(partition.name().to_owned(), remembered);
    }

    fn save(&self) -> Result<(), SourceError> {
        let context = || format!("remembering positions in {}", self.path.display());
        serde_json::to_vec_pretty(&self.known)
            .map_err(io::Error::other)
            .and_then(|bytes| files::replace(&self.path, &bytes))
            .map_err(|error| SourceError::io(context(), error))
    }
}

/// The lock of the positions in `path`; the system takes it back however the process ends.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.with_extension("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::other(
            "another run of this pipeline is at work; end it, or give this one its own \
             `service.pipeline_id` or `service.state`",
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Trail {
    /// Reads what the last run left; nothing where there is no file, or with `fresh`.
    ///
    /// # Errors
    /// A file that cannot be read, or is not one of ours; another run that has it.
    pub fn open(path: PathBuf, fresh: bool) -> Result<Self, SourceError> {
        let lock = lock(&path).map_err(|error| {
            SourceError::io(
                format!("remembering positions in {}", path.display()),
                error,
            )
        })?;
        let known = match std::fs::read(&path) {
            _ if fresh => Ok(Positions::new()),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::other(format!("{error} (`--fresh` does without the file)"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Positions::new()),
            Err(error) => Err(error),
        };
        let context = || format!("reading the remembered positions in {}", path.display());
        let known = known.map_err(|error| SourceError::io(context(), error))?;
        Ok(Self(Arc::new(Mutex::new(State {
            path,
            _lock: lock,
            known,
            files: HashMap::new(),
            settled: HashMap::new(),
        }))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it is held")
    }

    /// What the last run left of the partition `name`.
    pub fn remembered(&self, name: &str) -> Option<Remembered> {
        self.state().known.get(name).cloned()
    }

    /// After the files that are known, this one is to be read from `offset` on. If it is the first, `at`
    /// is the partition's position there.
    pub fn find(&self, partition: &Partition, identity: Identity, offset: u64, at: u64) {
        let mut state = self.state();
        let files = state.files.entry(partition.clone()).or_default();
        files.push_back(Found {
            identity,
            offset,
            at,
            base: None,
        });
        state.remember(partition);
    }

    /// From now on positions of `partition` are `base` more than offsets in this file.
    pub fn begin(&self, partition: &Partition, identity: Identity, offset: u64, base: u64) {
        let mut state = self.state();
        let files = state.files.entry(partition.clone()).or_default();
        let found = files
            .iter_mut()
            .find(|file| file.base.is_none() && file.identity.inode == identity.inode);
        let begun = Found {
            identity,
            offset,
            at: base + offset,
            base: Some(base),
        };
        match found {
            Some(found) => *found = begun,
            None => {
                // What an inode held before it was cut cannot be read again: nothing leads there.
                files.retain(|file| file.identity.inode != begun.identity.inode);
                files.push_back(begun);
            }
        }
        state.remember(partition);
    }

    /// More of the first bytes of the file that is read is known.
    pub fn know(&self, partition: &Partition, identity: Identity) {
        let mut state = self.state();
        let files = state.files.get_mut(partition);
        let mut begun = files.into_iter().flatten().rev();
        if let Some(file) = begun.find(|file| file.base.is_some()) {
            file.identity = identity;
        }
    }

    /// Writes down which files there are. A crash after this finds them again, whatever they are called
    /// by then; so a followed file is not read before.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub fn save(&self) -> Result<(), SourceError> {
        self.state().save()
    }
}

impl Committer for Trail {
    fn commit<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let mut state = self.state();
            for (partition, position) in checkpoint.positions() {
                state.settled.insert(partition.clone(), position);
                state.remember(partition);
            }
            state.save()
        })
    }
}
