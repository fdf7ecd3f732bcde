//! Walking: from a position over so many data frames, as the receiver counted them.
//!
//! Owns what one frame is to a receiver: the stream's own frames; behind a position in the middle of
//! one, or at the beginning of one that is taken apart, each record of the rest of it; with a filter,
//! each record that it lets through. Senders send by the same rule (`alone`), so that a place means the
//! same to both.

use std::collections::BTreeSet;
use std::ops::Range;

use super::MARK_RECORDS_MAX;
use crate::journal::{Chunk, Position};

/// A place as a sender reads it: so many data frames behind a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Steps {
    /// The position.
    pub position: Position,
    /// The frame there went out taken apart.
    pub apart: bool,
    /// Frames to walk over.
    pub since: u64,
}

/// A filter: the keys of records that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(BTreeSet<Box<[u8]>>);

impl Keys {
    /// A filter of these keys.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Self {
        Self(
            keys.into_iter()
                .map(|key| key.into_bytes().into())
                .collect(),
        )
    }

    /// Whether record `index` of `chunk` has one of them.
    pub fn take(&self, chunk: &Chunk, index: usize) -> bool {
        chunk.key(index).is_some_and(|key| self.0.contains(key))
    }

    /// The keys as they were given.
    pub(super) fn texts(&self) -> Vec<String> {
        let keys = self.0.iter();
        keys.map(|key| String::from_utf8_lossy(key).into_owned())
            .collect()
    }
}

/// The records of `chunk` from `at` on that go out in frames of their own: with a filter all that it
/// lets through; without, the rest of a frame in whose middle `at` is.
pub fn alone<'c>(
    chunk: &'c Chunk,
    at: Position,
    keys: Option<&'c Keys>,
) -> (Range<usize>, impl Fn(usize) -> bool + 'c) {
    let start = at.since(chunk.first) as usize;
    let end = match keys {
        Some(_) => chunk.records.len(),
        None => {
            let rest = rest_of_frame(chunk, at);
            let is_whole = chunk.frame_records(chunk.frame_at(at)) == rest;
            if is_whole { start } else { rest.end }
        }
    };
    (start..end, move |index| {
        keys.is_none_or(|keys| keys.take(chunk, index))
    })
}

/// The records of the frame that holds `at`, from `at` on.
fn rest_of_frame(chunk: &Chunk, at: Position) -> Range<usize> {
    at.since(chunk.first) as usize..chunk.frame_records(chunk.frame_at(at)).end
}

/// See the module.
#[derive(Debug)]
pub struct Walk<'k> {
    at: Position,
    /// The frame at `at` was taken apart.
    apart: bool,
    left: u64,
    keys: Option<&'k Keys>,
    passed: u64,
}

impl<'k> Walk<'k> {
    /// From `steps.position` over its frames.
    pub fn new(steps: Steps, keys: Option<&'k Keys>) -> Self {
        Self {
            at: steps.position,
            apart: steps.apart,
            left: steps.since,
            keys,
            passed: 0,
        }
    }

    /// Where it is: read the journal there.
    pub fn at(&self) -> Position {
        self.at
    }

    /// Whether it has come to its end.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Whether it went further than any two marks are apart: nobody was sent so much after one.
    pub fn is_lost(&self) -> bool {
        self.keys.is_some() && self.passed > 2 * MARK_RECORDS_MAX
    }

    /// Over the frames of `chunk`, which must hold the place where it is.
    pub fn over(&mut self, chunk: &Chunk) {
        let (mut records, is_taken) = alone(chunk, self.at, self.keys);
        if std::mem::take(&mut self.apart) && self.keys.is_none() {
            records = rest_of_frame(chunk, self.at);
        }
        while self.left > 0
            && let Some(index) = records.next()
        {
            self.left -= u64::from(is_taken(index));
            self.at = self.at.plus(1);
            self.passed += 1;
        }
        if self.left == 0 || self.at >= chunk.end() {
            return;
        }
        let frame = chunk.frame_at(self.at);
        let frames = self.left.min((chunk.frames.len() - frame) as u64);
        let last = chunk.frames[frame + frames as usize - 1];
        self.at = chunk.first.plus(u64::from(last.records_end));
        self.left -= frames;
    }
}
