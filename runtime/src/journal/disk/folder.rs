//! The few file operations that the journal on disk is made of.
//!
//! Owns the two traits behind which tests put a file system that fails, and the real one. Knows nothing
//! of segments. Called by the log and by what is kept beside it. Blocking.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A folder of files without folders in it.
pub trait Folder: Send + Sync {
    /// The names in it.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file, in place of any of that name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, in place of any of that name: a crash leaves one or the other.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes what was created, removed and renamed outlive a crash of the machine.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Reads at an offset; 0 at the end, and possibly less than asked for.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at an offset, possibly less than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes what was written outlive a crash of the machine.
    fn sync(&self) -> io::Result<()>;
    /// Cuts what is behind `bytes`.
    fn cut(&self, bytes: u64) -> io::Result<()>;
}

/// Reads until the buffer is full or the file is at its end; returns how much that was.
pub fn read_full(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Writes all of it.
pub fn write_full(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut count = 0;
    while count < bytes.len() {
        match file.write_at(&bytes[count..], offset + count as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => count += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The content of a small file; `None` where there is none.
pub fn read_small(folder: &dyn Folder, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match folder.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(io::Error::other)?];
    let count = read_full(&*file, &mut bytes, 0)?;
    bytes.truncate(count);
    Ok(Some(bytes))
}

/// Replaces a small file so that a crash leaves the old one or the new one.
pub fn replace_small(folder: &dyn Folder, name: &str, bytes: &[u8]) -> io::Result<()> {
    let next = format!("{name}.next");
    let file = folder.create(&next)?;
    write_full(&*file, bytes, 0)?;
    file.sync()?;
    folder.rename(&next, name)?;
    folder.sync()
}

/// A folder of the file system.
pub struct RealFolder {
    /// Where it is.
    pub path: PathBuf,
}

impl Folder for RealFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.path)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        let file = options.read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }
}

impl File for fs::File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}
