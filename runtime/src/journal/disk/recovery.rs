//! Recovery: from the files that a run left to a log that goes on.
//!
//! Owns the question what a crash may leave behind and what is damage. Cuts what was never safe, and
//! refuses, with file and offset, what once was and is no more (I1). Called when a journal is opened.
//!
//! The last segment is read whole and checked. Those before it were synced to the end that the next one
//! names: they are only walked through, record by record, and checked where they are read.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::folder::{File, Folder, read_full, write_full};
use super::format::{
    HEAD_BYTES, Head, NoHead, RECORD_MAGIC, decode_head, decode_record, decode_record_head,
    head_bytes,
};
use super::log::{Log, Rules};
use super::segment::{Scan, Segment, name, sequence};
use crate::journal::Position;

/// Why what is there cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's word.
        error: io::Error,
    },
    /// What was safe once is there no more.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file's name.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Another version wrote it.
    #[error("{file} has version {version} of the format, which this wirefall does not read")]
    Version {
        /// The file's name.
        file: String,
        /// What it says.
        version: u32,
    },
}

/// What is known beside the segments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// There was a journal: no segment at all is damage.
    pub exists: bool,
    /// All below was safe once.
    pub safe: Position,
}

/// A log that goes on, and what was cut off for it.
pub struct Recovered {
    /// The log.
    pub log: Log,
    /// What was torn.
    pub cut: Option<Cut>,
}

/// What was cut off the end of a segment.
pub struct Cut {
    /// The file's name.
    pub file: String,
    /// Where it ends now.
    pub offset: u64,
    /// How much that was.
    pub bytes: u64,
}

/// An open segment and what its head says.
type Opened = (Arc<dyn File>, Head);

/// Finds the log in `folder`, or begins one of `epoch`.
///
/// # Errors
/// See [`RecoveryError`].
pub fn recover(
    folder: Arc<dyn Folder>,
    rules: Rules,
    known: Known,
    epoch: u64,
) -> Result<Recovered, RecoveryError> {
    let names = folder.list().map_err(doing("listing the folder"))?;
    let mut numbers: BTreeSet<u64> = names.iter().filter_map(|name| sequence(name)).collect();
    let highest = numbers.last().copied().unwrap_or(0);
    let recovery = Recovery { folder: &folder };
    let Some((file, head)) = recovery.last(&mut numbers)? else {
        if known.exists {
            return Err(damaged(
                &name(highest.max(1)),
                0,
                "there was a journal, and no segment of it is left",
            ));
        }
        let mut log = Log::of(
            folder,
            rules,
            epoch,
            VecDeque::new(),
            highest,
            <_>::default(),
        );
        log.next_segment()
            .map_err(doing("beginning the first segment"))?;
        return Ok(Recovered { log, cut: None });
    };
    let mut checkpoint = head.checkpoint.clone();
    let (last, cut) = recovery.read_last(&file, &head, &mut checkpoint)?;
    let end = last.extent().end;
    if end < known.safe {
        let what = format!(
            "it ends at position {}, and all below {} was safe once",
            end.0, known.safe.0
        );
        return Err(damaged(&name(last.sequence), last.extent().bytes, what));
    }
    let segments = recovery.before(&head, Arc::new(last), &numbers)?;
    recovery.remove_orphans(&segments, &numbers)?;
    Ok(Recovered {
        log: Log::of(folder, rules, head.epoch, segments, highest, checkpoint),
        cut,
    })
}

fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> RecoveryError {
    let what = what.into();
    |error| RecoveryError::Io { what, error }
}

fn damaged(file: &str, offset: u64, what: impl Into<String>) -> RecoveryError {
    RecoveryError::Damaged {
        file: file.to_owned(),
        offset,
        what: what.into(),
    }
}

struct Recovery<'a> {
    folder: &'a Arc<dyn Folder>,
}

impl Recovery<'_> {
    fn open(&self, number: u64) -> Result<Arc<dyn File>, RecoveryError> {
        let name = name(number);
        let opened = self.folder.open(&name);
        opened.map_err(doing(format!("opening {name}")))
    }

    /// The newest segment that was ever used, of those in `numbers`. One whose head is torn was not: its
    /// head was to be synced before its first record was written.
    fn last(&self, numbers: &mut BTreeSet<u64>) -> Result<Option<Opened>, RecoveryError> {
        while let Some(&number) = numbers.last() {
            let file = self.open(number)?;
            if let Some(head) = read_head(&*file, number)? {
                return Ok(Some((file, head)));
            }
            if records_behind(&*file, number, 0)?.next().is_some() {
                return Err(damaged(&name(number), 0, "its head is not right"));
            }
            self.remove(number)?;
            numbers.remove(&number);
        }
        Ok(None)
    }

    fn remove(&self, number: u64) -> Result<(), RecoveryError> {
        let name = name(number);
        let removed = self.folder.remove(&name).and_then(|()| self.folder.sync());
        removed.map_err(doing(format!("removing {name}, which was never used")))
    }

    /// Reads the last segment to its end, cuts what a crash tore, and makes the rest safe.
    fn read_last(
        &self,
        file: &Arc<dyn File>,
        head: &Head,
        checkpoint: &mut crate::checkpoint::Checkpoint,
    ) -> Result<(Segment, Option<Cut>), RecoveryError> {
        let name = name(head.sequence);
        let length = file.bytes().map_err(doing(format!("reading {name}")))?;
        let start = head.encode().len() as u64;
        let segment = Segment::new(head.clone(), Arc::clone(file), start);
        let mut scan = Scan::new(&segment, start, length);
        let mut synced_bytes = 0; // not even the head, before a record says so
        loop {
            let at = scan.at;
            let Some(told) = scan.head().map_err(doing(format!("reading {name}")))? else {
                break;
            };
            let record = scan.record().map_err(doing(format!("reading {name}")))?;
            let Some((chunk, deltas)) = record else { break };
            if chunk.first != segment.extent().end {
                return Err(damaged(&name, at, "its positions do not follow"));
            }
            for delta in &deltas {
                let settled = checkpoint.settle(delta);
                settled.map_err(|error| damaged(&name, at, error.to_string()))?;
            }
            segment.note(chunk.first, chunk.end(), scan.at - at, told.made_at_ms);
            synced_bytes = synced_bytes.max(told.synced_bytes);
        }
        let end = scan.at;
        let mut cut = None;
        if end < length {
            if records_behind(&**file, head.sequence, end)?.any(|synced| synced > end) {
                let what =
                    "a checksum is wrong, and what is behind it shows that it was right once";
                return Err(damaged(&name, end, what));
            }
            let cutting = file.cut(end);
            cutting.map_err(doing(format!("cutting what is torn off {name}")))?;
            cut = Some(Cut {
                file: name.clone(),
                offset: end,
                bytes: length - end,
            });
        }
        let safe = make_safe(&**file, synced_bytes, end).and_then(|()| self.folder.sync());
        safe.map_err(doing(format!("making {name} safe")))?;
        Ok((segment, cut))
    }

    /// The segments before the last one, as far as they are kept, and that one.
    fn before(
        &self,
        last: &Head,
        segment: Arc<Segment>,
        numbers: &BTreeSet<u64>,
    ) -> Result<VecDeque<Arc<Segment>>, RecoveryError> {
        let mut segments = VecDeque::from([segment]);
        let mut next = last.clone();
        while numbers.contains(&next.previous) {
            let (head, segment) = self.walk(&next)?;
            segments.push_front(Arc::new(segment));
            next = head;
        }
        if numbers.range(..next.previous).next().is_some() {
            return Err(damaged(
                &name(next.previous),
                0,
                "it is missing, and older segments are there",
            ));
        }
        Ok(segments)
    }

    /// Walks through the segment before `next`, to the end that `next` names.
    fn walk(&self, next: &Head) -> Result<(Head, Segment), RecoveryError> {
        let number = next.previous;
        let name = name(number);
        let file = self.open(number)?;
        let Some(head) = read_head(&*file, number)? else {
            return Err(damaged(&name, 0, "its head is not right"));
        };
        let end = next.previous_bytes;
        let start = head.encode().len() as u64;
        let segment = Segment::new(head.clone(), file, start);
        let mut scan = Scan::new(&segment, start, end);
        while scan.at < end {
            let at = scan.at;
            let record = scan.head().map_err(doing(format!("reading {name}")))?;
            match record {
                Some(record) if record.first == segment.extent().end => {
                    scan.skip(&record);
                    segment.note(
                        record.first,
                        record.end(),
                        record.bytes(),
                        record.made_at_ms,
                    );
                }
                _ => return Err(damaged(&name, at, "there is no record")),
            }
        }
        let length = segment.file.bytes();
        if length.map_err(doing(format!("reading {name}")))? < end {
            return Err(damaged(&name, end, "it is shorter than it was"));
        }
        if segment.extent().end != next.first {
            return Err(damaged(&name, end, "the next segment does not follow it"));
        }
        Ok((head, segment))
    }

    /// Removes what failed tries to begin a segment left between those that count.
    fn remove_orphans(
        &self,
        segments: &VecDeque<Arc<Segment>>,
        numbers: &BTreeSet<u64>,
    ) -> Result<(), RecoveryError> {
        let counting: BTreeSet<u64> = segments.iter().map(|one| one.sequence).collect();
        numbers
            .difference(&counting)
            .try_for_each(|&number| self.remove(number))
    }
}

/// Writes the bytes of this range once more and syncs them. What a killed process left may be there to
/// be read and not on the disk, and a sync alone would say nothing: one that failed in that process has
/// marked the pages as clean.
fn make_safe(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
    let count = read_full(file, &mut bytes, from)?;
    write_full(file, &bytes[..count], from)?;
    file.sync()
}

/// The head of a segment; `None` where it is not right.
fn read_head(file: &dyn File, number: u64) -> Result<Option<Head>, RecoveryError> {
    let name = name(number);
    let reading = || doing(format!("reading {name}"));
    let mut start = vec![0; HEAD_BYTES];
    let count = read_full(file, &mut start, 0).map_err(reading())?;
    let bytes = match head_bytes(&start[..count]) {
        Ok(bytes) if bytes as u64 <= file.bytes().map_err(reading())? => bytes,
        Ok(_) | Err(NoHead::Torn) => return Ok(None),
        Err(NoHead::Version(version)) => {
            return Err(RecoveryError::Version {
                file: name,
                version,
            });
        }
    };
    let mut head = vec![0; bytes];
    let count = read_full(file, &mut head, 0).map_err(reading())?;
    Ok(decode_head(number, &head[..count]).ok())
}

/// How far the segment was synced when each right record behind `offset` was written.
fn records_behind(
    file: &dyn File,
    number: u64,
    offset: u64,
) -> Result<impl Iterator<Item = u64>, RecoveryError> {
    let reading = || doing(format!("reading {}", name(number)));
    let length = file.bytes().map_err(reading())?;
    let mut rest = vec![0; length.saturating_sub(offset) as usize];
    let count = read_full(file, &mut rest, offset).map_err(reading())?;
    rest.truncate(count);
    let rest = Bytes::from(rest);
    let places = 0..rest.len();
    Ok(places.filter_map(move |at| {
        if !rest[at..].starts_with(&RECORD_MAGIC) {
            return None;
        }
        let head = decode_record_head(&rest[at..])?;
        let end = at.checked_add(usize::try_from(head.bytes()).ok()?)?;
        let record = (end <= rest.len()).then(|| rest.slice(at..end))?;
        decode_record(number, &record).map(|_| head.synced_bytes)
    }))
}
