//! Files that can be made again: compiled code and descriptions.
//!
//! Owns their safety: an entry is written beside its place and renamed into it, so that two processes
//! never see half of one, and carries its checksum, so that a torn one is made again. A cache that
//! cannot be written is worth a word in the log, never an error.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::Cache;

/// Most entries of a kind; the oldest go (I4).
const ENTRIES_MAX: usize = 64;

/// What ends every entry: the checksum of the rest.
const CHECKSUM_BYTES: usize = 32;

/// The entry `name`, if it is there and whole.
pub(super) fn read(cache: &Cache, kind: &str, name: &str) -> Option<Vec<u8>> {
    let path = cache.folder(kind)?.join(name);
    let mut bytes = fs::read(&path).ok()?;
    let content = bytes
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .filter(|content| Sha256::digest(&bytes[..*content]).as_slice() == &bytes[*content..]);
    match content {
        Some(content) => bytes.truncate(content),
        None => {
            tracing::debug!("{} is torn and is made again", path.display());
            return None;
        }
    }
    Some(bytes)
}

/// Keeps `content` under `name`.
pub(super) fn write(cache: &Cache, kind: &str, name: &str, content: &[u8]) {
    let Some(folder) = cache.folder(kind) else {
        return;
    };
    if let Err(error) = try_write(&folder, name, content) {
        tracing::debug!("nothing cached in {}: {error}", folder.display());
    }
}

fn try_write(folder: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    create_private(folder)?;
    let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let beside = folder.join(format!("{name}.{}-{unique}.tmp", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&beside)?;
        file.write_all(content)?;
        file.write_all(&Sha256::digest(content))?;
        fs::rename(&beside, folder.join(name))
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| prune(folder))
}

/// Code that is run is read from here: others must not write to it.
fn create_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Removes the oldest entries beyond [`ENTRIES_MAX`].
fn prune(folder: &Path) -> std::io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| {
            let modified = entry.metadata().and_then(|data| data.modified());
            (modified.unwrap_or(SystemTime::UNIX_EPOCH), entry.path())
        })
        .collect();
    entries.sort();
    let excess = entries.len().saturating_sub(ENTRIES_MAX);
    for (_, path) in &entries[..excess] {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        (folder, cache)
    }

    #[test]
    fn an_entry_comes_back_and_a_torn_one_does_not() {
        let (folder, cache) = cache();
        assert_eq!(read(&cache, "code", "a"), None);
        write(&cache, "code", "a", b"content");
        assert_eq!(read(&cache, "code", "a").as_deref(), Some(&b"content"[..]));
        let path = folder.path().join("code/a");
        let whole = fs::read(&path).unwrap();
        for length in [0, 5, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(&cache, "code", "a"), None, "cut at {length}");
        }
    }

    #[test]
    fn two_writers_leave_one_whole_entry() {
        let (folder, cache) = cache();
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let cache = &cache;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write(cache, "code", "a", &vec![writer; 10_000]);
                        let seen = read(cache, "code", "a").expect("always whole");
                        assert!(seen.iter().all(|byte| *byte == seen[0]));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path().join("code")).unwrap().count(), 1);
    }

    #[test]
    fn old_entries_go() {
        let (folder, cache) = cache();
        for entry in 0..ENTRIES_MAX + 5 {
            write(&cache, "code", &entry.to_string(), b"x");
        }
        let kept = fs::read_dir(folder.path().join("code")).unwrap().count();
        assert_eq!(kept, ENTRIES_MAX);
    }
}
