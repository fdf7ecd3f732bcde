//! A file of records and the place behind them, durable together.
//!
//! Owns both files: what was written beyond the place that was kept is cut off when the file is opened
//! again, so that whoever goes on at the place has each record exactly once. Asks nobody for records.
//! Called by `wirefall subscribe` and by `receiver`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::protocol::Place;
use crate::files;

/// Bytes that are buffered.
const BUFFER_BYTES: usize = 64 * 1024;

/// See the module.
pub struct Kept {
    file: BufWriter<File>,
    place_path: PathBuf,
    /// Length of the file, what is buffered included.
    bytes: u64,
    keys: Vec<String>,
    kept: Option<Mark>,
}

/// What the file beside it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Length of the file at the place.
    bytes: u64,
    /// The stream that it is of, as its server names it.
    stream: String,
    /// The keys that were asked for, in order; none where all records were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<String>,
    #[serde(flatten)]
    place: Place,
}

/// Why a file cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file system refuses.
    #[error("cannot write to {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// The place does not fit the file.
    #[error("{0}")]
    Unfit(String),
}

impl Kept {
    /// The same, but a file that has something in it and no place beside it is not ours to empty. For
    /// those who keep a place before the first record.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn open_own(path: &Path) -> Result<Self, KeptError> {
        let metadata = std::fs::metadata(path).ok();
        let has_content = metadata.is_some_and(|file| file.is_file() && file.len() > 0);
        if has_content && !place_path(path).exists() {
            return Err(KeptError::Unfit(format!(
                "{} has something in it and no place beside it: take another file, or move it away",
                path.display()
            )));
        }
        Self::open(path, &[])
    }

    /// Opens `path`, which has records with these keys, or with any where there is none; cut off at the
    /// place that is kept beside it. Without one it begins anew, empty.
    ///
    /// # Errors
    /// It cannot be written, another process writes it, or it does not fit its place or its keys.
    pub fn open(path: &Path, keys: &[String]) -> Result<Self, KeptError> {
        let io = |error| KeptError::Io {
            path: path.to_owned(),
            error,
        };
        let place_path = place_path(path);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path).map_err(io)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let told = format!("another process writes to {}", path.display());
                return Err(KeptError::Unfit(told));
            }
            // A pipe or a file system without locks: nobody can be kept out.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let metadata = file.metadata().map_err(io)?;
        let kept = match metadata.is_file() {
            true => read(&place_path)?,
            false => None,
        };
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        // A place counts the frames that its keys let through.
        if kept.as_ref().is_some_and(|mark| mark.keys != keys) {
            return Err(KeptError::Unfit(format!(
                "{} has records of other keys: take another file, or move it and {} away to begin anew",
                path.display(),
                place_path.display(),
            )));
        }
        let bytes = kept.as_ref().map_or(0, |mark| mark.bytes);
        if metadata.len() < bytes {
            return Err(KeptError::Unfit(format!(
                "{} has {} bytes, and {} says {bytes}: records are missing; move both away to begin anew",
                path.display(),
                metadata.len(),
                place_path.display(),
            )));
        }
        if metadata.is_file() {
            file.set_len(bytes).map_err(io)?;
        }
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            place_path,
            bytes,
            keys,
            kept,
        })
    }

    /// Where to go on; `None` at the beginning.
    pub fn place(&self) -> Option<&Place> {
        self.kept.as_ref().map(|mark| &mark.place)
    }

    /// The stream that the file is of, if that is known.
    pub fn stream(&self) -> Option<&str> {
        self.kept.as_ref().map(|mark| mark.stream.as_str())
    }

    /// Makes everything that was written durable, and then that it is all up to `place`.
    ///
    /// # Errors
    /// The file system refuses; then what was kept before still holds.
    pub fn keep(&mut self, stream: &str, place: &Place) -> io::Result<()> {
        let mark = Mark {
            bytes: self.bytes,
            stream: stream.to_owned(),
            keys: self.keys.clone(),
            place: place.clone(),
        };
        if self.kept.as_ref() == Some(&mark) {
            return Ok(());
        }
        self.file.flush()?;
        if self.file.get_ref().metadata()?.is_file() {
            self.file.get_ref().sync_data()?;
            let text = serde_json::to_vec(&mark).expect("texts and numbers are JSON");
            files::replace(&self.place_path, &text)?;
        }
        self.kept = Some(mark);
        Ok(())
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn place_path(path: &Path) -> PathBuf {
    let mut place_path = path.as_os_str().to_owned();
    place_path.push(".place");
    PathBuf::from(place_path)
}

fn read(path: &Path) -> Result<Option<Mark>, KeptError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| KeptError::Io {
            path: path.to_owned(),
            error,
        })?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let path = path.display();
        KeptError::Unfit(format!(
            "{path} is no place ({error}); move it away to begin anew"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(position: &str, since: u64) -> Place {
        Place {
            position: position.to_owned(),
            since,
        }
    }

    #[test]
    fn what_is_beyond_the_place_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let mut kept = Kept::open(&path, &[]).unwrap();
        assert_eq!(kept.place(), None);
        kept.write_all(b"one\ntwo\n").unwrap();
        kept.keep("s", &place("a.2", 0)).unwrap();
        kept.write_all(b"three\nfo").unwrap();
        kept.flush().unwrap();
        assert!(Kept::open(&path, &[]).is_err(), "another one writes it");
        drop(kept);
        let mut kept = Kept::open(&path, &[]).unwrap();
        assert_eq!(kept.place(), Some(&place("a.2", 0)));
        assert_eq!(kept.stream(), Some("s"));
        kept.write_all(b"three\n").unwrap();
        kept.keep("s", &place("a.2", 1)).unwrap();
        drop(kept);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\nthree\n");
        assert_eq!(
            Kept::open(&path, &[]).unwrap().place(),
            Some(&place("a.2", 1))
        );
    }

    #[test]
    fn a_file_that_is_not_ours_is_not_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let mut kept = Kept::open_own(&path).unwrap();
        kept.keep("s", &place("a.0", 0)).unwrap();
        kept.write_all(b"one\n").unwrap();
        kept.flush().unwrap();
        drop(kept);
        drop(Kept::open_own(&path).unwrap());
        std::fs::write(&path, "mine").unwrap();
        std::fs::remove_file(folder.path().join("out.ndjson.place")).unwrap();
        let refused = Kept::open_own(&path).err().unwrap().to_string();
        assert!(refused.contains("no place beside it"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_file_of_other_keys_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let mut kept = Kept::open(&path, &keys(&["b", "a"])).unwrap();
        kept.write_all(b"one\n").unwrap();
        kept.keep("s", &place("a.0", 1)).unwrap();
        drop(kept);
        for other in [&[][..], &["a"], &["a", "c"]] {
            let refused = Kept::open(&path, &keys(other)).err().unwrap().to_string();
            assert!(refused.contains("other keys"), "{refused}");
        }
        let kept = Kept::open(&path, &keys(&["a", "b", "b"])).unwrap();
        assert_eq!(kept.place(), Some(&place("a.0", 1)));
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
    }

    #[test]
    fn a_file_that_lost_records_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let mut kept = Kept::open(&path, &[]).unwrap();
        kept.write_all(b"one\n").unwrap();
        kept.keep("s", &place("a.1", 0)).unwrap();
        drop(kept);
        std::fs::write(&path, "on").unwrap();
        let refused = Kept::open(&path, &[]).err().unwrap().to_string();
        assert!(refused.contains("records are missing"), "{refused}");
        std::fs::write(folder.path().join("out.ndjson.place"), "{").unwrap();
        let refused = Kept::open(&path, &[]).err().unwrap().to_string();
        assert!(refused.contains("is no place"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"on", "nothing was touched");
    }
}
