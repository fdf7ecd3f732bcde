//! What is kept beside the segments: how the journal was left, and the cursors with names.
//!
//! Owns the two small files and their checksums, and what the first of them says about what may have
//! been lost. Called when a journal is opened and closed, and by the writer for the cursors.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::folder::{Folder, read_small, replace_small};
use crate::journal::cursors::Cursors;
use crate::journal::{Bookmark, Position};

/// How the journal was left.
pub const STATE: &str = "state.json";
/// Where the readers are that come back.
pub const CURSORS: &str = "cursors.json";

/// How a run had the journal, written at its start and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Readers saw only what was synced.
    pub synced: bool,
    /// The start of the machine that it ran under; empty where that is not known.
    pub boot: String,
    /// Where the journal ended, synced, if the run came to its end.
    pub clean: Option<u64>,
    /// What its frames are, in words; empty where that was not written down.
    #[serde(default)]
    pub frames: String,
}

impl State {
    /// Whether records may be gone that somebody saw: the machine went down, and not all that was seen
    /// was synced.
    pub fn may_have_lost(&self, boot: &str) -> bool {
        let same_boot = !boot.is_empty() && self.boot == boot;
        !self.synced && self.clean.is_none() && !same_boot
    }
}

/// What tells this start of the machine from others.
pub fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Reads one of the files.
///
/// # Errors
/// It cannot be read, or is not as it was written.
pub fn read<T: DeserializeOwned>(folder: &dyn Folder, name: &str) -> io::Result<Option<T>> {
    let Some(bytes) = read_small(folder, name)? else {
        return Ok(None);
    };
    let altered = || io::Error::new(io::ErrorKind::InvalidData, "it is not as it was written");
    let text = std::str::from_utf8(&bytes).map_err(|_| altered())?;
    let (json, sum) = text.trim_end().rsplit_once('\n').ok_or_else(altered)?;
    if sum != checksum(json) {
        return Err(altered());
    }
    serde_json::from_str(json)
        .map(Some)
        .map_err(io::Error::other)
}

/// Replaces one of the files; a crash leaves the old one or the new one.
///
/// # Errors
/// Whatever the system says; the old one is still there.
pub fn write(folder: &dyn Folder, name: &str, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string(value).map_err(io::Error::other)?;
    let sum = checksum(&json);
    replace_small(folder, name, format!("{json}\n{sum}\n").as_bytes())
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

/// Cursors as they are written down.
pub type Written = BTreeMap<String, Noted>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Noted {
    /// The position of one that is nobody's.
    At(u64),
    /// Of one that is somebody's.
    Owned {
        /// The position.
        at: u64,
        /// Whose it is.
        owner: Arc<str>,
    },
}

impl Noted {
    /// The position.
    pub fn at(&self) -> u64 {
        match self {
            Self::At(at) | Self::Owned { at, .. } => *at,
        }
    }

    fn owner(&self) -> Option<Arc<str>> {
        match self {
            Self::At(_) => None,
            Self::Owned { owner, .. } => Some(Arc::clone(owner)),
        }
    }
}

/// What is to be written of `cursors`.
pub fn written(cursors: &Cursors) -> Written {
    cursors
        .iter()
        .map(|(name, bookmark)| {
            let at = bookmark.at.0;
            let noted = match bookmark.owner.clone() {
                None => Noted::At(at),
                Some(owner) => Noted::Owned { at, owner },
            };
            (name.to_owned(), noted)
        })
        .collect()
}

/// The cursors that were written, none beyond `head`: behind what was lost there is nothing.
pub fn cursors(written: &Written, head: Position) -> Cursors {
    let mut cursors = Cursors::default();
    for (name, noted) in written {
        let at = Position(noted.at()).min(head);
        let owner = noted.owner();
        let stays = false; // whoever lists it says so again
        cursors.set(name, Bookmark { at, owner, stays });
    }
    cursors
}

#[cfg(test)]
mod tests {
    use super::super::folder::RealFolder;
    use super::*;

    #[test]
    fn a_note_comes_back_and_an_altered_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let folder = RealFolder { path: path.clone() };
        assert!(read::<Written>(&folder, CURSORS).unwrap().is_none());
        let notes = Written::from([("a".to_owned(), Noted::At(1234))]);
        write(&folder, CURSORS, &notes).unwrap();
        assert_eq!(read(&folder, CURSORS).unwrap(), Some(notes));
        let text = std::fs::read_to_string(path.join(CURSORS)).unwrap();
        std::fs::write(path.join(CURSORS), text.replace("1234", "1235")).unwrap();
        assert!(read::<Written>(&folder, CURSORS).is_err());
    }

    #[test]
    fn only_a_machine_that_went_down_loses_what_was_not_synced() {
        for (synced, boot, clean, lost) in [
            (false, "other", None, true),
            (false, "", None, true),
            (false, "this", None, false),
            (false, "other", Some(1), false),
            (true, "other", None, false),
        ] {
            let state = State {
                synced,
                boot: boot.to_owned(),
                clean,
                frames: String::new(),
            };
            assert_eq!(state.may_have_lost("this"), lost, "{state:?}");
        }
    }
}
