//! Reads the files of the `file` source, one after the other.
//!
//! Owns the open file, and what waits behind it: the files of the round, and of a followed file those
//! that took its name since. Called by the pipeline through [`Reader`].

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Plan;
use super::input::{Input, Look};
use super::pace::Pace;
use super::piece::Piece;
use crate::driver::BoxFuture;
use crate::record::{Batch, Partition};
use crate::source::lines::Lines;
use crate::source::position_file::Trail;
use crate::source::{Oddities, Reader, SourceContext, SourceError};

/// Bytes read at once.
const BLOCK_BYTES: usize = 256 << 10;

/// How often a followed file is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Most files that wait behind the one that is read, of those that took the name of a followed file.
const HELD_MAX: usize = 64;

pub(super) fn unreadable(path: &Path, error: io::Error) -> SourceError {
    SourceError::io(format!("reading {}", path.display()), error)
}

/// See the module.
pub(super) struct FileReader {
    plan: Plan,
    context: SourceContext,
    files: Vec<PathBuf>,
    /// What is not open yet of this round.
    left: VecDeque<Piece>,
    /// Rounds that are left, this one included; `None`: for ever.
    rounds_left: Option<u32>,
    current: Option<Current>,
    block: Vec<u8>,
    /// The part of `block` that is not cut yet.
    block_at: std::ops::Range<usize>,
    pace: Option<Pace>,
    /// Whether this round gave a record.
    gave_in_round: bool,
    /// Where each partition's positions ended: what is read of it next goes on from there.
    ends: HashMap<Partition, u64>,
    /// Where it tells which files the positions lead through, if they are remembered.
    trail: Option<Trail>,
    oddities: Oddities,
    /// Told once what was read before it is given out.
    failed: Option<SourceError>,
    /// When a followed file was last looked at.
    looked_at: Instant,
}

struct Current {
    piece: Piece,
    partition: Partition,
    input: Input,
    lines: Lines,
    /// A followed file is looked at before it is read again after its end.
    at_end: bool,
}

fn warn_of_cut(path: &Path) {
    tracing::warn!(
        file = %path.display(),
        "the file was cut: it no longer holds what was read of it; going on at its beginning"
    );
}

impl FileReader {
    /// Reads what is `left` of `files` in the first round, and tells `trail` of it.
    pub(super) fn new(
        plan: Plan,
        context: SourceContext,
        files: Vec<PathBuf>,
        left: VecDeque<Piece>,
        trail: Option<Trail>,
    ) -> Result<Self, SourceError> {
        let mut reader = Self {
            pace: plan.config.rate.map(Pace::new),
            rounds_left: plan.config.repeat.times(),
            plan,
            context,
            files,
            left,
            current: None,
            block: vec![0; BLOCK_BYTES],
            block_at: 0..0,
            gave_in_round: false,
            ends: HashMap::new(),
            trail,
            oddities: Oddities::default(),
            failed: None,
            looked_at: Instant::now(),
        };
        reader.hold_what_is_left()?;
        Ok(reader)
    }

    /// Tells the trail of all that is left, and opens what is left of a followed file: it may be renamed
    /// before it is read.
    fn hold_what_is_left(&mut self) -> Result<(), SourceError> {
        for piece in &mut self.left {
            if self.plan.config.follow && Some(&piece.of) == self.files.last() {
                let held = piece.hold();
                held.map_err(|error| unreadable(&piece.path, error))?;
            }
            if let (Some(trail), Some(identity)) = (&self.trail, &piece.identity) {
                let partition = self.plan.partition(&piece.of);
                trail.find(&partition, identity.clone(), piece.offset, piece.position);
            }
        }
        match &self.trail {
            Some(trail) if self.plan.config.follow => trail.save(),
            _ => Ok(()),
        }
    }

    /// Opens the next file of the round; `false` when there is none.
    fn open_next(&mut self) -> Result<bool, SourceError> {
        let Some(mut piece) = self.left.pop_front() else {
            return Ok(false);
        };
        let held = piece.held.take();
        let open = |offset| {
            Input::open(&piece.path, piece.packing(), offset)
                .map_err(|error| unreadable(&piece.path, error))
        };
        let mut input = match held {
            Some(input) => input,
            None => open(piece.offset)?,
        };
        if input.offset() < piece.offset {
            warn_of_cut(&piece.path);
            input = open(0)?;
        }
        let partition = self.plan.partition(&piece.of);
        let first = *self.ends.get(&partition).unwrap_or(&piece.position);
        if let Some(trail) = &self.trail {
            // Never below zero: positions of a partition only rise, and begin at such an offset.
            let base = first - input.offset();
            trail.begin(&partition, input.identity(), input.offset(), base);
            // Before a record of it is read: the journal knows positions, and this which file they are of.
            let is_journalled = self.context.resume_at.is_some();
            if is_journalled || (self.left.is_empty() && self.plan.config.follow) {
                trail.save()?;
            }
        }
        let line_max = self.plan.config.line_max.0 as usize;
        self.current = Some(Current {
            lines: Lines::new(partition.clone(), self.context.limits, line_max, first),
            piece,
            partition,
            input,
            at_end: false,
        });
        self.block_at = 0..0;
        Ok(true)
    }

    /// Ends the open file.
    fn close_current(&mut self) -> Option<Batch> {
        let mut current = self.current.take()?;
        let batch = current.lines.finish();
        self.oddities = self.oddities + current.lines.oddities();
        self.ends
            .insert(current.partition, current.lines.taken_to());
        batch
    }

    /// Looks whether a followed file was renamed or cut. What took its name is opened at once and read
    /// after it: the name may be given away again while this one is still being read. Returns whether
    /// the open file was cut.
    fn look(&mut self) -> Result<bool, SourceError> {
        self.looked_at = Instant::now();
        let Some(current) = &self.current else {
            return Ok(false);
        };
        let (of, newest) = match self.left.back() {
            None => (&current.piece.of, &current.input),
            Some(Piece {
                of,
                held: Some(input),
                ..
            }) if self.left.len() < HELD_MAX => (of, input),
            Some(_) => return Ok(false),
        };
        let looked = newest.look().map_err(|error| unreadable(of, error))?;
        if looked != Look::Replaced {
            return Ok(looked == Look::Cut && self.left.is_empty());
        }
        let mut piece = Piece::whole(of);
        match piece.hold() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false), // gone again
            held => held.map_err(|error| unreadable(of, error))?,
        }
        tracing::info!(file = %of.display(), "another file has taken the name; it is read next");
        if let (Some(trail), Some(identity)) = (&self.trail, &piece.identity) {
            trail.find(&self.plan.partition(of), identity.clone(), 0, 0);
            trail.save()?; // before a record of it is read
        }
        self.left.push_back(piece);
        Ok(false)
    }

    /// Goes on at the beginning of the open file, which was cut.
    fn begin_anew(&mut self) -> Option<Batch> {
        let piece = self.current.as_ref().map(|current| &current.piece);
        let piece = piece.map(|piece| Piece::whole(&piece.of));
        if let Some(piece) = &piece {
            warn_of_cut(&piece.path);
        }
        self.left.extend(piece);
        self.close_current()
    }

    /// Starts over where `repeat` says so; a round without a record would be followed by such rounds
    /// for ever.
    fn next_round(&mut self) -> bool {
        if !std::mem::take(&mut self.gave_in_round) {
            return false;
        }
        if let Some(rounds) = &mut self.rounds_left {
            *rounds = rounds.saturating_sub(1);
            if *rounds == 0 {
                return false;
            }
        }
        self.left = self.files.iter().map(|path| Piece::whole(path)).collect();
        true
    }

    async fn read(&mut self) -> Result<Option<Batch>, SourceError> {
        loop {
            if self.current.is_none() && self.left.is_empty() && self.rounds_left == Some(0) {
                return Ok(None); // closed, or at its end: no pace to wait for
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.files.is_empty() && !self.appeared()? {
                tokio::time::sleep(FOLLOW_EVERY).await;
                continue;
            }
            let allowed = match &mut self.pace {
                Some(pace) => pace.wait().await,
                None => usize::MAX,
            };
            let Some(current) = &mut self.current else {
                if !self.open_next()? && !self.next_round() {
                    return Ok(None);
                }
                continue;
            };
            let was_at_end = std::mem::take(&mut current.at_end);
            let is_due = was_at_end || self.looked_at.elapsed() >= FOLLOW_EVERY;
            // What is read already of a cut file is passed on first.
            if self.plan.config.follow && is_due && self.look()? && was_at_end {
                if let Some(batch) = self.begin_anew() {
                    return Ok(Some(self.paced(batch)));
                }
                continue;
            }
            let filled = match self.block_at.is_empty() {
                true => self.fill(),
                false => Ok(true),
            };
            let Ok(filled) = filled.map_err(|error| self.failed = Some(error)) else {
                // What was read before a torn end are records all the same.
                if let Some(batch) = self.lines_so_far() {
                    return Ok(Some(self.paced(batch)));
                }
                continue;
            };
            if !filled {
                if let Some(batch) = self.at_end() {
                    return Ok(Some(self.paced(batch)));
                }
                if self.current.is_some() {
                    tokio::time::sleep(FOLLOW_EVERY).await;
                }
                continue;
            }
            let Some(current) = &mut self.current else {
                continue;
            };
            let mut rest = &self.block[self.block_at.clone()];
            let fed = current.lines.feed(&mut rest, allowed);
            self.block_at.start = self.block_at.end - rest.len();
            let batch = fed.unwrap_or_else(|error| {
                self.failed = Some(error);
                self.lines_so_far()
            });
            if let Some(batch) = batch {
                return Ok(Some(self.paced(batch)));
            }
        }
    }

    /// Whether the file to follow is there now.
    fn appeared(&mut self) -> Result<bool, SourceError> {
        let Ok(files) = self.plan.files() else {
            return Ok(false);
        };
        for path in &files {
            let trail = self.trail.as_ref();
            let pieces = self.plan.left(path, trail, &files, &self.context)?;
            self.left.extend(pieces);
        }
        self.files = files;
        self.hold_what_is_left()?;
        Ok(true)
    }

    /// The whole lines of the open file that were read and not given out.
    fn lines_so_far(&mut self) -> Option<Batch> {
        self.current.as_mut()?.lines.take()
    }

    /// Reads a block; `false` at the present end of the open file.
    fn fill(&mut self) -> Result<bool, SourceError> {
        let Some(current) = &mut self.current else {
            return Ok(false);
        };
        let known = current.input.head_bytes();
        let count = current.input.read(&mut self.block).map_err(|error| {
            let path = current.piece.path.display();
            let offset = current.input.offset();
            SourceError::io(
                format!("reading {path} after byte {offset} of its text"),
                error,
            )
        })?;
        self.block_at = 0..count;
        if let Some(trail) = &self.trail
            && current.input.head_bytes() > known
        {
            trail.know(&current.partition, current.input.identity());
        }
        Ok(count > 0)
    }

    /// The end of the open file was reached: a followed one stays open until another has its name.
    fn at_end(&mut self) -> Option<Batch> {
        if self.plan.config.follow && self.left.is_empty() {
            self.current.as_mut()?.at_end = true;
            self.lines_so_far()
        } else {
            self.close_current()
        }
    }

    fn paced(&mut self, batch: Batch) -> Batch {
        self.gave_in_round = true;
        if let Some(pace) = &mut self.pace {
            pace.release(batch.records.len());
        }
        batch
    }
}

impl Reader for FileReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, SourceError>> {
        Box::pin(self.read())
    }

    fn close(&mut self) {
        // What is unread, or read and not given out, is read again by the next run.
        self.oddities = self.oddities();
        self.current = None;
        self.left.clear();
        self.rounds_left = Some(0);
    }

    fn oddities(&self) -> Oddities {
        let open = self.current.as_ref();
        self.oddities + open.map_or_else(Oddities::default, |current| current.lines.oddities())
    }
}
