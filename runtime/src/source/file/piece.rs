//! What there is to read of a file: from where on, and under which name it is now.
//!
//! Owns how a run goes on where the last one had everything confirmed, though the file was renamed, cut
//! or replaced since.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::input::{Input, Packing, is};
use crate::source::position_file::{Identity, Remembered};

/// A file to read from an offset of its text on.
pub struct Piece {
    /// The file that the pipeline names: its records are of this partition.
    pub of: PathBuf,
    /// Where it is: `of`, or what that was renamed to.
    pub path: PathBuf,
    /// Where to begin.
    pub offset: u64,
    /// The partition's position there, if nothing of the partition is read before.
    pub position: u64,
    /// What it is, where that is known already.
    pub identity: Option<Identity>,
    /// The file, if it must not be lost though its name may be given to another before it is read.
    pub held: Option<Input>,
}

impl Piece {
    /// The whole of a file.
    pub fn whole(of: &Path) -> Self {
        Self::at(of, of, 0, None)
    }

    fn at(of: &Path, path: &Path, offset: u64, identity: Option<Identity>) -> Self {
        Self {
            of: of.to_owned(),
            path: path.to_owned(),
            offset,
            position: offset,
            identity,
            held: None,
        }
    }

    /// Opens the file and keeps it open.
    pub fn hold(&mut self) -> io::Result<()> {
        let input = Input::open(&self.path, self.packing(), self.offset)?;
        self.identity = Some(input.identity());
        self.held = Some(input);
        Ok(())
    }

    /// How its text is packed.
    pub fn packing(&self) -> Packing {
        Packing::of(&self.of)
    }
}

/// What is left of the file `of`: first what it was and is not settled, found by its identity under
/// whatever name in the same folder, then what it is now. `named` are read as files of their own.
pub fn left(of: &Path, remembered: &Remembered, named: &[PathBuf]) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let first = std::iter::once((&remembered.file, remembered.position));
    let files = first.chain(remembered.then.iter().map(|file| (file, 0)));
    for (file, offset) in files {
        if is(of, Packing::of(of), file, offset)? {
            pieces.push(Piece::at(of, of, offset, Some(file.clone())));
        } else if let Some(path) = renamed(of, file, offset, named)? {
            tracing::info!(file = %path.display(), offset, "going on in the renamed file");
            pieces.push(Piece::at(of, &path, offset, Some(file.clone())));
        } else {
            tracing::warn!(
                file = %of.display(),
                offset,
                "what was read to this place was cut, or replaced and is not in its folder under \
                 another name; going on at the beginning of the present file"
            );
        }
    }
    if pieces.last().is_none_or(|piece| piece.path != of) {
        pieces.push(Piece::whole(of));
    }
    Ok(pieces)
}

/// Goes to the position `to` of a partition of which `at` was remembered for the first of `pieces`. Where
/// that is in no file any more, what is left is read from its beginning: again rather than not at all.
pub fn seek(pieces: &mut Vec<Piece>, at: u64, to: u64) -> io::Result<()> {
    let mut ahead = to.saturating_sub(at);
    while ahead > 0 && pieces.len() > 1 && pieces[0].packing() == Packing::Plain {
        let rest = std::fs::metadata(&pieces[0].path)?.len();
        let rest = rest.saturating_sub(pieces[0].offset);
        if ahead < rest {
            break;
        }
        ahead -= rest;
        pieces.remove(0);
    }
    pieces[0].offset = (pieces[0].offset + ahead).saturating_sub(at.saturating_sub(to));
    pieces[0].position = to;
    Ok(())
}

/// The file of the same folder that is `identity`.
fn renamed(
    of: &Path,
    identity: &Identity,
    offset: u64,
    named: &[PathBuf],
) -> io::Result<Option<PathBuf>> {
    // Where a link leads is where its file was renamed.
    let of_itself = of.canonicalize()?;
    let folder = of_itself.parent().unwrap_or(&of_itself);
    let is_named = |path: &Path| {
        named
            .iter()
            .any(|one| one.canonicalize().is_ok_and(|one| one == path))
    };
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_it = entry
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.ino() == identity.inode);
        if is_it && !is_named(&path) && is(&path, Packing::of(of), identity, offset)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
