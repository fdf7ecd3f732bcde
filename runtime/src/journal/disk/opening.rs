//! Opening: from a folder to a log that goes on, under a lock.
//!
//! Owns what is refused, and when positions begin to mean other records (a new epoch). What a crash left
//! is `recovery`'s to read. Called once, by `disk`.

use std::fs::TryLockError;
use std::path::Path;
use std::sync::Arc;

use super::folder::Folder;
use super::log::{Log, Rules};
use super::recovery::{Known, RecoveryError, recover};
use super::{Options, Sync, notes};
use crate::journal::cursors::Cursors;
use crate::journal::{JournalError, Position};

/// A segment is a part of all that may be kept, so that dropping one frees little at a time.
const SEGMENTS_OF_ALL: u64 = 8;
/// Smallest and largest segment.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(64 << 20);

/// The folder cannot be used, and why.
pub(super) fn unusable(path: &Path, what: impl Into<String>) -> JournalError {
    JournalError::Unusable {
        path: path.display().to_string(),
        what: what.into(),
        help: "the journal needs a folder of its own, which it may write to (`journal.path`)",
    }
}

/// Makes the folder and locks it; the system takes the lock back however the process ends.
pub(super) fn lock(path: &Path) -> Result<std::fs::File, JournalError> {
    let opened = std::fs::create_dir_all(path).and_then(|()| {
        let mut options = std::fs::File::options();
        let options = options.create(true).truncate(false).write(true);
        options.open(path.join("lock"))
    });
    let file = opened.map_err(|error| unusable(path, error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(unusable(path, format!("locking it: {error}"))),
        Err(TryLockError::WouldBlock) => Err(JournalError::Unusable {
            path: path.display().to_string(),
            what: "another process has this journal".to_owned(),
            help: "end it, or give this pipeline a `journal.path` of its own",
        }),
    }
}

/// Finds the log and the cursors, and begins a new epoch where positions may come to mean other records.
pub(super) fn open_log(
    folder: &Arc<dyn Folder>,
    options: &Options,
) -> Result<(Log, Cursors), JournalError> {
    let path = &options.path;
    let damaged = |what: String| JournalError::Damaged {
        path: path.display().to_string(),
        what,
    };
    let note = |name: &str, error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidData => damaged(format!("{name}: {error}")),
        _ => unusable(path, format!("{name}: {error}")),
    };
    let boot = notes::boot();
    let left: Option<notes::State> =
        notes::read(&**folder, notes::STATE).map_err(|error| note(notes::STATE, error))?;
    let written: notes::Written = notes::read(&**folder, notes::CURSORS)
        .map_err(|error| note(notes::CURSORS, error))?
        .unwrap_or_default();
    let may_have_lost = left.as_ref().is_some_and(|left| left.may_have_lost(&boot));
    let clean = left.as_ref().and_then(|left| left.clean);
    let known = Known {
        exists: left.is_some(),
        safe: match may_have_lost {
            true => Position::default(),
            false => Position(
                written
                    .values()
                    .map(notes::Noted::at)
                    .chain(clean)
                    .max()
                    .unwrap_or(0),
            ),
        },
    };
    let synced = options.sync != Sync::None;
    let rules = Rules {
        segment_bytes: (options.bytes_max / SEGMENTS_OF_ALL)
            .clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()),
        synced,
    };
    let epoch = fastrand::u64(1..);
    let recovered = recover(Arc::clone(folder), rules, known, epoch);
    let recovered = recovered.map_err(|error| match error {
        RecoveryError::Io { .. } | RecoveryError::Version { .. } => {
            unusable(path, error.to_string())
        }
        RecoveryError::Damaged { .. } => damaged(error.to_string()),
    })?;
    if let Some(cut) = recovered.cut {
        tracing::warn!(
            file = %path.join(cut.file).display(),
            offset = cut.offset,
            bytes = cut.bytes,
            "cut what a crash tore off the end of the journal; it was never durable"
        );
    }
    let mut log = recovered.log;
    if let Some(left) = &left {
        fits(options, left, &log, &written)?;
    }
    if may_have_lost || options.fresh {
        if may_have_lost {
            tracing::warn!(
                "the machine went down with a journal of `sync: none`: records that were seen may be \
                 gone, so its positions count for nothing any more (a new epoch)"
            );
        }
        let epoch = may_have_lost.then_some(epoch);
        log.begin_anew(epoch, options.fresh)
            .map_err(|error| unusable(path, format!("beginning a segment: {error}")))?;
    }
    let cursors = notes::cursors(&written, log.safe());
    let state = notes::State {
        synced,
        boot,
        clean: None,
        frames: options.frames.to_owned(),
    };
    notes::write(&**folder, notes::STATE, &state)
        .map_err(|error| unusable(path, format!("{}: {error}", notes::STATE)))?;
    Ok((log, cursors))
}

/// Refuses frames that would be read as what they are not: text messages in a stream of binary ones are
/// control messages to its subscribers, and lines are no messages at all. What nobody reads again is no harm.
fn fits(
    options: &Options,
    left: &notes::State,
    log: &Log,
    written: &notes::Written,
) -> Result<(), JournalError> {
    let head = log.safe();
    let first = log.segments().front().map_or(head, |segment| segment.first);
    let is_passed = !written.is_empty() && written.values().all(|noted| noted.at() >= head.0);
    let unread = first < head && (options.history || !is_passed);
    if left.frames.is_empty() || left.frames == options.frames || !unread {
        return Ok(());
    }
    Err(JournalError::Unusable {
        path: options.path.display().to_string(),
        what: format!(
            "it has records as {}, and this pipeline writes {}",
            left.frames, options.frames
        ),
        help: "leave the sink and its `format` as they were, or give the pipeline another `journal.path`; \
               there the source begins anew",
    })
}
