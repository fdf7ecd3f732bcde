//! The position file: what a source that cannot ask its origin remembers between runs.
//!
//! Owns one JSON file in the state folder, replaced atomically. Used by `file`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Committer, SourceError};
use crate::checkpoint::Checkpoint;
use crate::driver::BoxFuture;
use crate::files;

/// What is remembered of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Where to go on.
    pub position: u64,
    /// What tells that the partition is still the same one (a digest of its first bytes).
    pub identity: String,
}

/// Remembered positions, by partition name.
pub type Positions = BTreeMap<String, Remembered>;

/// Writes positions to a file.
pub struct PositionFile {
    path: PathBuf,
    known: Positions,
}

impl PositionFile {
    /// Reads what the last run left; empty where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, or is not one of ours.
    pub fn open(path: PathBuf) -> Result<(Self, Positions), SourceError> {
        let context = || format!("reading the remembered positions in {}", path.display());
        let known: Positions = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| SourceError::io(context(), io::Error::other(error)))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Positions::new(),
            Err(error) => return Err(SourceError::io(context(), error)),
        };
        Ok((
            Self {
                path,
                known: known.clone(),
            },
            known,
        ))
    }

    /// Says what partition `name` is, so that its position can be remembered.
    pub fn identify(&mut self, name: &str, position: u64, identity: String) {
        self.known
            .insert(name.to_owned(), Remembered { position, identity });
    }

    fn save(&self) -> io::Result<()> {
        files::replace(&self.path, &serde_json::to_vec_pretty(&self.known)?)
    }
}

impl Committer for PositionFile {
    fn commit<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            for (partition, position) in checkpoint.positions() {
                if let Some(remembered) = self.known.get_mut(partition.name()) {
                    remembered.position = position;
                }
            }
            let context = || format!("remembering positions in {}", self.path.display());
            self.save()
                .map_err(|error| SourceError::io(context(), error))
        })
    }
}
