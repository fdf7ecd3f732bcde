//! Small promises about files that outlive a crash.
//!
//! Owns nothing; called by the drivers that keep something on disk. Blocking: each call is short.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

/// Replaces a file so that a crash leaves the old one or the new one.
///
/// # Errors
/// Whatever the file system refuses.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    std::fs::create_dir_all(folder(path))?;
    let mut file = File::create(&next)?;
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
