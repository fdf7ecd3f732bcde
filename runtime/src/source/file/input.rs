//! One open file: its plain text, and whether the name still leads to it.
//!
//! Owns unpacking and what tells a file from another. Knows nothing of lines or of other files.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::source::position_file::{HEAD_BYTES, Identity};

/// How a file is packed; what it was called when it was found says so, whatever it is called now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstandard,
}

impl Packing {
    /// The packing that a name tells.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstandard,
            _ => Self::Plain,
        }
    }
}

/// What a look at a followed file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is there, or its name leads nowhere for the moment.
    Same,
    /// The name leads to another file, and that has content: who writes has moved on.
    Replaced,
    /// It is shorter than what was read, or begins otherwise.
    Cut,
}

/// An open file.
pub struct Input {
    path: PathBuf,
    packing: Packing,
    text: Box<dyn Read + Send>,
    /// The same open file, for what its text does not tell.
    file: File,
    inode: u64,
    /// The first bytes of the text, as far as they are known.
    head: Vec<u8>,
    /// Offset of the next byte of the text.
    offset: u64,
}

impl Input {
    /// Opens a file from `offset` of its text on, or from its end if it is shorter.
    pub fn open(path: &Path, packing: Packing, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let mut text: Box<dyn Read + Send> = match packing {
            Packing::Plain => Box::new(file.try_clone()?),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file.try_clone()?)),
            Packing::Zstandard => Box::new(zstd::stream::read::Decoder::new(file.try_clone()?)?),
        };
        let mut head = vec![0; HEAD_BYTES];
        let reached = match packing {
            Packing::Plain => {
                let known = read_up_to(&file, &mut head)?;
                head.truncate(known);
                let length = file.metadata()?.len();
                file.seek(SeekFrom::Start(offset.min(length)))?
            }
            _ => {
                head.clear();
                let known = offset.min(HEAD_BYTES as u64);
                text.by_ref().take(known).read_to_end(&mut head)?;
                let rest = offset - known;
                head.len() as u64 + io::copy(&mut text.by_ref().take(rest), &mut io::sink())?
            }
        };
        Ok(Self {
            path: path.to_owned(),
            packing,
            text,
            file,
            inode,
            head,
            offset: reached,
        })
    }

    /// Reads what comes next of the text; 0 at its present end.
    pub fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.text.read(block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        // What follows the head that is known, if the block reaches there.
        let known = self.head.len().saturating_sub(self.offset as usize);
        let unknown = HEAD_BYTES - self.head.len();
        if unknown > 0 && known < count {
            let end = count.min(known + unknown);
            self.head.extend_from_slice(&block[known..end]);
        }
        self.offset += count as u64;
        Ok(count)
    }

    /// What tells it from other files.
    pub fn identity(&self) -> Identity {
        Identity::new(self.inode, &self.head)
    }

    /// How many of its first bytes are known.
    pub fn head_bytes(&self) -> usize {
        self.head.len()
    }

    /// Offset of the next byte that is read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether it is still what its name leads to, and still holds what was read of it. The beginning
    /// is compared because a file may be cut and grow past the old place between two looks.
    pub fn look(&self) -> io::Result<Look> {
        let there = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Same),
            there => there?,
        };
        if there.ino() != self.inode {
            return Ok(match there.len() {
                0 => Look::Same,
                _ => Look::Replaced,
            });
        }
        if self.packing != Packing::Plain {
            return Ok(Look::Same);
        }
        let mut head = vec![0; self.head.len()];
        let is_whole = there.len() >= self.offset && {
            self.file.read_exact_at(&mut head, 0)?;
            head == self.head
        };
        Ok(match is_whole {
            true => Look::Same,
            false => Look::Cut,
        })
    }
}

/// Reads the first bytes of a file, as many as there are.
fn read_up_to(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Whether the file at `path` is `identity` and has text from `offset` on.
pub fn is(path: &Path, packing: Packing, identity: &Identity, offset: u64) -> io::Result<bool> {
    let mut input = Input::open(path, packing, 0)?;
    if input.inode != identity.inode {
        return Ok(false);
    }
    let mut head = Vec::new();
    input
        .text
        .by_ref()
        .take(identity.head_bytes)
        .read_to_end(&mut head)?;
    let is_long_enough = packing != Packing::Plain || input.file.metadata()?.len() >= offset;
    Ok(is_long_enough && Identity::new(input.inode, &head) == *identity)
}
