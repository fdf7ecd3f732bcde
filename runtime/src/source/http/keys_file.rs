//! Keys in a database in one file, beside a journal on disk.
//!
//! Owns the two tables, and what of them is believed after a crash or a failed write. Keeps no key in
//! memory: there may be millions. Called by `keys`.
//!
//! Where a write failed nobody knows what came to the disk, and the database says so with each further
//! call: it is opened again, and what was intended beyond the positions that are taken is undone, as at a
//! start.

use std::fs::File;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, WriteTransaction,
};

use super::intent::{Intent, Key};
use super::keep::{Forgetting, Keep, KeysError, Settled};
use super::outcome::{Outcome, Rejected};
use crate::files;
use crate::port::news::News;

/// Digest, first, last, from, records.
type PostRow = (u128, u64, u64, u64, u64);
/// Accepted, and the rejected as JSON, as far as they are known.
type OutcomeRow<'a> = (Option<u64>, Option<&'a [u8]>);

/// The posts, by the name of their key.
const POSTS: TableDefinition<u128, PostRow> = TableDefinition::new("posts");
/// What became of them, by `last` and name: in the order in which they were taken.
const TAKEN: TableDefinition<(u64, u128), OutcomeRow> = TableDefinition::new("taken");

/// Pages that the database keeps in memory, in bytes (I4).
const CACHE_BYTES: usize = 4 << 20;

impl<E: Into<redb::Error>> From<E> for KeysError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

type Opener = Box<dyn Fn() -> Result<Database, KeysError> + Send>;

/// See the module.
pub(super) struct KeysFile {
    opener: Opener,
    /// `None` after an error.
    database: Option<Database>,
    /// The position before the next post.
    next: u64,
    news: News,
}

impl KeysFile {
    /// Opens what an earlier run left at `path`, or begins it, as with `fresh`. The journal has all records
    /// before `position`.
    ///
    /// # Errors
    /// Whatever the file system refuses, or the file is not what was written.
    pub(super) fn open(path: PathBuf, position: u64, fresh: bool) -> Result<Self, KeysError> {
        if fresh {
            begin(&path)?;
        }
        Self::over(Box::new(move || open(&path)), position)
    }

    fn over(opener: Opener, next: u64) -> Result<Self, KeysError> {
        let mut file = Self {
            opener,
            database: None,
            next,
            news: News::default(),
        };
        file.database()?;
        Ok(file)
    }

    /// Does something with the database, which has to be opened again where that fails.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&Database) -> Result<T, KeysError>,
    ) -> Result<T, KeysError> {
        let done = self.database().and_then(work);
        if let Err(error) = &done {
            self.database = None;
            if self.news.is_news() {
                tracing::warn!(
                    "keys of posts cannot be kept (not told again for a minute): {error}"
                );
            }
        }
        done
    }

    fn database(&mut self) -> Result<&Database, KeysError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let database = (self.opener)()?;
                let transaction = database.begin_write()?;
                undo(&transaction, self.next)?;
                transaction.commit()?;
                database
            }
        };
        Ok(self.database.insert(database))
    }
}

impl Keep for KeysFile {
    fn find(&mut self, name: u128) -> Result<Option<Intent>, KeysError> {
        self.with(|database| {
            let posts = database.begin_read()?.open_table(POSTS)?;
            let found = posts.get(name)?;
            Ok(found.map(|row| intent(name, row.value())))
        })
    }

    fn outcome(&mut self, of: &Intent) -> Result<Outcome, KeysError> {
        self.with(|database| {
            let taken = database.begin_read()?.open_table(TAKEN)?;
            let row = taken.get((of.last, of.key.name))?;
            let (accepted, rejected) = row.as_ref().map_or((None, None), |row| row.value());
            Ok(Outcome {
                accepted,
                rejected: rejected.and_then(|json| serde_json::from_slice(json).ok()),
                ..Outcome::recalled(of.records)
            })
        })
    }

    fn intend(
        &mut self,
        intents: &[Intent],
        settled: Settled,
        next: u64,
        forgetting: Forgetting,
    ) -> Result<u64, KeysError> {
        let early = self.with(|database| {
            if intents.is_empty() {
                return Ok(0);
            }
            let transaction = database.begin_write()?;
            settle(&transaction, settled)?;
            take(&transaction, intents)?;
            // More than come: what is too much goes, and no post waits for all of it.
            let early = forget(&transaction, &forgetting, 2 * intents.len())?;
            transaction.commit()?;
            Ok(early)
        })?;
        self.next = next;
        Ok(early)
    }

    /// What fails here is known as taken all the same.
    fn close(&mut self, settled: Settled) {
        let _ = self.with(|database| {
            let transaction = database.begin_write()?;
            settle(&transaction, settled)?;
            Ok(transaction.commit()?)
        });
        self.database = None;
    }

    #[cfg(test)]
    fn count(&mut self) -> u64 {
        let count = |database: &Database| Ok(database.begin_read()?.open_table(POSTS)?.len()?);
        self.with(count).unwrap()
    }
}

/// Notes what became of posts.
fn settle(transaction: &WriteTransaction, settled: Settled) -> Result<(), KeysError> {
    let mut taken = transaction.open_table(TAKEN)?;
    for (intent, outcome) in settled {
        let rejected = outcome.rejected.as_deref().map(json);
        let row = (outcome.accepted, rejected.as_deref());
        taken.insert((intent.last, intent.key.name), row)?;
    }
    Ok(())
}

/// Notes what posts are about to become.
fn take(transaction: &WriteTransaction, intents: &[Intent]) -> Result<(), KeysError> {
    let mut posts = transaction.open_table(POSTS)?;
    let mut taken = transaction.open_table(TAKEN)?;
    for intent in intents {
        let name = intent.key.name;
        // It may be the rest of one that a crash cut.
        let before = posts.insert(name, row(intent))?.map(|row| row.value().2);
        if let Some(last) = before {
            taken.remove((last, name))?;
        }
        taken.insert((intent.last, name), (None, None))?;
    }
    Ok(())
}

/// Forgets so many at most, and gives how many of them early.
fn forget(
    transaction: &WriteTransaction,
    forgetting: &Forgetting,
    most: usize,
) -> Result<u64, KeysError> {
    let mut posts = transaction.open_table(POSTS)?;
    let mut taken = transaction.open_table(TAKEN)?;
    let mut early = 0;
    for _ in 0..most {
        let count = taken.len()?;
        let oldest = taken.first()?.map(|(oldest, _)| oldest.value());
        let Some((last, name)) = oldest else { break };
        let Some(is_early) = forgetting.lets_go(count, last, name) else {
            break;
        };
        taken.remove((last, name))?;
        posts.remove(name)?;
        early += u64::from(is_early);
    }
    Ok(early)
}

fn json(rejected: &[Rejected]) -> Vec<u8> {
    serde_json::to_vec(rejected).expect("numbers and text are JSON")
}

fn row(intent: &Intent) -> PostRow {
    let Intent {
        key,
        first,
        last,
        from,
        records,
    } = *intent;
    (key.digest, first, last, from, records)
}

fn intent(name: u128, (digest, first, last, from, records): PostRow) -> Intent {
    let key = Key { name, digest };
    Intent {
        key,
        first,
        last,
        from,
        records,
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn open(path: &Path) -> Result<Database, KeysError> {
    if !path.exists() {
        begin(path)?;
    }
    Ok(builder().open(path)?)
}

/// An empty database at `path`, whatever is there. One that a crash left half made is never seen.
fn begin(path: &Path) -> Result<(), KeysError> {
    let next = path.with_extension("next");
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = FileBackend::new(options.open(&next)?)?;
    drop(builder().create_with_backend(file)?);
    std::fs::rename(&next, path)?;
    Ok(files::sync_folder(path)?)
}

/// The journal has no record behind `position`: whatever was intended there did not come about.
fn undo(transaction: &WriteTransaction, position: u64) -> Result<(), KeysError> {
    let mut posts = transaction.open_table(POSTS)?;
    let mut taken = transaction.open_table(TAKEN)?;
    loop {
        let newest = taken.last()?.map(|(newest, _)| newest.value());
        let Some((last, name)) = newest.filter(|(last, _)| *last > position) else {
            return Ok(());
        };
        taken.remove((last, name))?;
        let post = posts.remove(name)?.map(|row| intent(name, row.value()));
        let Some(mut post) = post else { continue };
        post.first = post.first.min(position);
        post.last = position;
        // Of one that has come to this in parts, those before count.
        if post.first < position || post.from > 0 {
            taken.insert((position, name), (None, None))?;
            posts.insert(name, row(&post))?;
        }
    }
}

#[cfg(test)]
mod failing {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use redb::StorageBackend;

    use super::*;

    /// A disk that stops taking writes.
    #[derive(Clone, Debug, Default)]
    pub(in super::super) struct Disk(Arc<AtomicI64>);

    impl Disk {
        /// So many further writes come to the disk, and then none, until it is said otherwise.
        pub(in super::super) fn fail_after(&self, writes: Option<i64>) {
            self.0.store(writes.unwrap_or(i64::MAX), Ordering::Relaxed);
        }

        fn write(&self) -> io::Result<()> {
            match self.0.fetch_sub(1, Ordering::Relaxed) {
                ..=0 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(()),
            }
        }
    }

    #[derive(Debug)]
    struct OnDisk(FileBackend, Disk);

    impl StorageBackend for OnDisk {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.1.write()?;
            self.0.set_len(len)
        }

        /// What fails here has come to the disk all the same.
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()?;
            self.1.write()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.1.write()?;
            self.0.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.0.close()
        }
    }

    impl KeysFile {
        /// On a disk that fails when it is told to.
        pub(in super::super) fn failing(path: PathBuf) -> (Self, Disk) {
            let disk = Disk::default();
            disk.fail_after(None);
            let of_file = disk.clone();
            let opener = move || {
                let mut options = File::options();
                let options = options.read(true).write(true).create(true);
                let file = FileBackend::new(options.truncate(false).open(&path)?)?;
                Ok(builder().create_with_backend(OnDisk(file, of_file.clone()))?)
            };
            (Self::over(Box::new(opener), 0).unwrap(), disk)
        }
    }
}
