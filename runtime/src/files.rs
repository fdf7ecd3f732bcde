//! Small promises about files that outlive a crash.
//!
//! Owns nothing; called by the drivers that keep something on disk. Blocking: each call is short.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

/// What a file is given where its owner alone may read it.
const PRIVATE: u32 = 0o600;
/// What a file is given otherwise, less what the process takes away.
const SHARED: u32 = 0o666;

/// Replaces a file so that a crash leaves the old one or the new one.
///
/// # Errors
/// Whatever the file system refuses.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(path, bytes, SHARED)
}

/// The same with a file that its owner alone may read and write.
///
/// # Errors
/// Whatever the file system refuses.
pub fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(path, bytes, PRIVATE)
}

fn replace_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let next = path.with_extension("next");
    std::fs::create_dir_all(folder(path))?;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&next)?;
    if mode == PRIVATE {
        // One that an earlier crash left keeps the rights that it had.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    sync_folder(path)
}

/// Makes the name of a file that was created or renamed as durable as its content.
///
/// # Errors
/// Whatever the file system refuses.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// The bytes of a file that may have `bytes_max` at most.
///
/// # Errors
/// Whatever the file system refuses; `FileTooLarge` where there are more.
pub fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(bytes_max + 1);
    file.read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// Tells one version of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of the file at `path`, symbolic links followed; `None` where there is none that can be seen.
    pub fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// A path without `.` and `..`, by its words alone: to compare paths as they are written.
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(plain.components().next_back(), Some(Component::Normal(_))) =>
            {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Whether a file of lines ends in the middle of one: a crash or a full disk cut it off there.
///
/// # Errors
/// Whatever the file system refuses; a file that is not there has no lines.
pub fn ends_in_mid_line(path: &Path) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn folder(path: &Path) -> &Path {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_its_end_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        assert!(!ends_in_mid_line(&path).unwrap());
        for (text, torn) in [("", false), ("a\n", false), ("a\nb", true)] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(ends_in_mid_line(&path).unwrap(), torn, "{text:?}");
        }
    }
}
