//! The file of a stream's credentials, in the state folder of its pipeline.
//!
//! Owns `credentials.json`: readable by its owner alone, replaced whole, changed by one process at a
//! time. Never sees a secret. Called by the verbs, which change it, and by servers, which follow it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Keyring, KeyringError, UnixSeconds};
use crate::files::{self, Stamp};

/// Largest file that is read: a thousand credentials have some 400 KB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses.
    #[error("credentials in {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// It is not what was written.
    #[error("{} is no file of credentials: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        reason: String,
    },
    /// The change itself is refused.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl StoreError {
    /// The error, and what to do about it. Where a process goes on with what it read before, the error alone
    /// is told.
    pub fn advice(&self) -> String {
        match self {
            Self::Io { .. } => format!("{self}\n  {IO_HELP}"),
            Self::Damaged { .. } => format!("{self}\n  {DAMAGED_HELP}"),
            Self::Keyring(_) => self.to_string(),
        }
    }
}

const IO_HELP: &str = "the user that runs this must be able to read and write it; the state folder is \
     `service.state`";
const DAMAGED_HELP: &str = "nothing of it was changed; restore the file from a copy, or move it away to \
     begin with new credentials: the old secrets and the stream's GUID are no good then";

/// The seconds since the Unix epoch, now.
pub fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Where the credentials of one stream are.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// In the state folder of a pipeline.
    pub fn of(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join("credentials.json"),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells one version of the file from another; `None` while there is none.
    pub fn stamp(&self) -> Option<Stamp> {
        Stamp::of(&self.path)
    }

    /// Reads the keyring; `None` where there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn load(&self) -> Result<Option<Keyring>, StoreError> {
        let bytes = match files::read_bounded(&self.path, FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| self.io(error))?,
        };
        match serde_json::from_slice(&bytes) {
            Ok(keyring) => Ok(Some(keyring)),
            Err(error) => Err(StoreError::Damaged {
                path: self.path.clone(),
                reason: error.to_string(),
            }),
        }
    }

    /// Changes the keyring, a new one where there is none, and gives back what `change` does. Waits for
    /// another process that changes it.
    ///
    /// # Errors
    /// The file cannot be read or written, or `change` refuses; nothing is changed then.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Keyring) -> Result<T, KeyringError>,
    ) -> Result<T, StoreError> {
        let _lock = self.lock().map_err(|error| self.io(error))?;
        let mut keyring = match self.load()? {
            Some(keyring) => keyring,
            None => Keyring::new()?,
        };
        let changed = change(&mut keyring)?;
        let bytes = serde_json::to_vec_pretty(&keyring).expect("a keyring is JSON");
        files::replace_private(&self.path, &bytes).map_err(|error| self.io(error))?;
        Ok(changed)
    }

    /// Held until it is dropped; the system takes it back however the process ends.
    fn lock(&self) -> io::Result<File> {
        let path = self.path.with_extension("lock");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        lock.lock()?;
        Ok(lock)
    }

    fn io(&self, error: io::Error) -> StoreError {
        let path = self.path.clone();
        StoreError::Io { path, error }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{Limits, Scope, Wanted};
    use super::*;

    fn reader() -> Wanted {
        Wanted {
            scopes: vec![Scope::Subscribe],
            lifetime: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn i7_the_file_is_its_owners_and_has_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(&folder.path().join("state/flights"));
        assert!(store.load().unwrap().is_none());
        let issued = store.change(|ring| ring.create(reader(), now())).unwrap();
        let mode = std::fs::metadata(store.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(store.path()).unwrap();
        assert!(!text.contains(issued.secret.reveal()), "{text}");
        let ring = store.load().unwrap().unwrap();
        assert_eq!(ring.stream, issued.stream);
        assert!(ring.recognise(None, issued.secret.reveal(), now()).is_ok());
    }

    #[test]
    fn a_change_that_is_refused_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        store.change(|ring| ring.create(reader(), now())).unwrap();
        let before = store.stamp();
        let refused = store.change(|ring| ring.revoke("nobody"));
        assert!(matches!(refused, Err(StoreError::Keyring(_))));
        assert_eq!(store.stamp(), before);
        store.change(|ring| ring.create(reader(), now())).unwrap();
        assert_ne!(store.stamp(), before);
    }

    #[test]
    fn a_damaged_file_is_told_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        std::fs::write(store.path(), "{\"stream\": \"x\", \"cred").unwrap();
        let created = store.change(|ring| ring.create(reader(), now()));
        assert!(matches!(created, Err(StoreError::Damaged { .. })));
        let text = std::fs::read_to_string(store.path()).unwrap();
        assert!(text.starts_with("{\"stream\""));
    }

    #[test]
    fn those_who_change_it_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        store.change(|ring| ring.create(reader(), now())).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.load().unwrap().unwrap().credentials.len(), 40);
    }
}
