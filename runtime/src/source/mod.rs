//! Sources: where batches come from.
//!
//! Owns the contract that every source keeps (one shared compliance test in `compliance`) and the
//! table of drivers. A source never commits by itself: the pipeline tells its [`Committer`] what is
//! settled. A driver is one file and one entry in [`DRIVERS`]; nothing else names it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::Checkpoint;
use crate::driver::{BoxFuture, Driver, ProbeStep, Problem, Reread};
use crate::metrics::Metrics;
use crate::port::gate::Credentials;
use crate::record::{Batch, Partition};

mod file;
mod http;
mod lines;
mod playground;
mod position_file;
mod stdin;
mod websocket;

#[cfg(test)]
mod compliance;

/// Every source that a pipeline can name.
pub static DRIVERS: &[&Driver<Box<dyn SourcePlan>>] = &[
    &stdin::DRIVER,
    &file::DRIVER,
    &playground::DRIVER,
    &websocket::DRIVER,
    &http::DRIVER,
];

/// When a batch is closed, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most records in a batch.
    pub records_max: usize,
    /// Most payload bytes in a batch; a single longer record is a batch of its own.
    pub bytes_max: usize,
    /// A partial batch goes on after this.
    pub wait: Duration,
}

/// What a source is given when it is opened.
#[derive(Clone)]
pub struct SourceContext {
    /// How to cut batches.
    pub limits: BatchLimits,
    /// Where it may remember its position between runs.
    pub state_dir: PathBuf,
    /// Who may feed it, where that is asked.
    pub credentials: Arc<Credentials>,
    /// Forget the remembered position.
    pub fresh: bool,
    /// What a journal that survives a crash holds of each partition; `None` without such a journal. It
    /// goes before what the source remembers itself: the first batch of a partition begins exactly at
    /// its position here. A source that cannot go there counts on from there.
    pub resume_at: Option<Checkpoint>,
    /// Reads the source's `config` again with today's secrets.
    pub reread: Reread,
    /// What it counts beside its records.
    pub metrics: Arc<Metrics>,
}

impl SourceContext {
    /// The position at which the journal wants `partition` to begin, if it knows it.
    pub fn resume_at(&self, partition: &Partition) -> Option<u64> {
        self.resume_at.as_ref()?.position(partition)
    }
}

/// A checked source that can be opened.
pub trait SourcePlan: Send + Sync + fmt::Debug {
    /// What it reads, for the first log line: `file flights.ndjson`.
    fn describe(&self) -> String;

    /// Whether a record that was not committed is read again by the next run.
    fn replayable(&self) -> bool;

    /// Whether each run reads from the beginning again, what was committed included.
    fn begins_anew(&self) -> bool {
        false
    }

    /// What it does for the guarantee of the pipeline and what it cannot do, in a sentence for `check` and
    /// the first log line.
    fn guarantee(&self) -> Option<String> {
        None
    }

    /// Whether whoever sent a record is told that it did not come through ([`Committer::failed`]).
    fn tells_senders(&self) -> bool {
        false
    }

    /// Whether those who feed it have to show a credential of the stream.
    fn asks_for_credentials(&self) -> bool {
        false
    }

    /// Whether it reads the file of this path.
    fn reads(&self, _path: &Path) -> bool {
        false
    }

    /// The address and port that it listens on, if it does.
    fn listens(&self) -> Option<SocketAddr> {
        None
    }

    /// What in its config may not do what it seems to.
    fn warnings(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Reaches for whom it reads from, or opens what it listens on, and tells layer by layer what happened
    /// (`check --connect`). Nothing for a source that does neither.
    fn probe(&self) -> BoxFuture<'_, Vec<ProbeStep>> {
        Box::pin(async { Vec::new() })
    }

    /// Opens it where the last commit left off.
    fn open(&self, context: SourceContext) -> BoxFuture<'_, Result<Source, SourceError>>;
}

/// An open source: the half that reads and the half that commits.
pub struct Source {
    /// Reads batches.
    pub reader: Box<dyn Reader>,
    /// Remembers what is settled.
    pub committer: Box<dyn Committer>,
    /// Records that the last run left unsettled are read again from here; empty at a first start.
    pub start: Checkpoint,
}

/// Reads batches in order. Dropping it stops the reading.
pub trait Reader: Send {
    /// The next batch, never empty; `None` at the end of a finite source. Cancel-safe: a dropped
    /// call loses nothing. `Batch::number` is set by the caller.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, SourceError>>;

    /// Takes nothing more from outside: `next` gives what was taken already, then `None`.
    fn close(&mut self);

    /// Lines that tell a person where to look, once it is open.
    fn greeting(&self) -> Vec<String> {
        Vec::new()
    }

    /// What it met beside records, cumulative.
    fn oddities(&self) -> Oddities {
        Oddities::default()
    }
}

/// Input that is not a record or not a whole one; counted, never silent (I2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Empty lines, skipped: they are no records.
    pub empty_lines: u64,
    /// Last lines without a newline: they are records.
    pub unended_lines: u64,
    /// Messages that do not hold what they should: each is a record.
    pub unsplit_messages: u64,
    /// Records that a server had no more when they were asked for.
    pub missed: u64,
    /// How often a server could not tell whether there were such.
    pub gaps: u64,
}

impl std::ops::Add for Oddities {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            empty_lines: self.empty_lines + other.empty_lines,
            unended_lines: self.unended_lines + other.unended_lines,
            unsplit_messages: self.unsplit_messages + other.unsplit_messages,
            missed: self.missed + other.missed,
            gaps: self.gaps + other.gaps,
        }
    }
}

/// Remembers settled positions.
pub trait Committer: Send {
    /// Makes the positions of `checkpoint` the ones at which the next run starts.
    fn commit<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<(), SourceError>>;

    /// A record did not come through: the one at the position before it in the partition is in the
    /// failover, or dropped, for this reason. Told before it is settled.
    fn failed(&mut self, _partition: &Partition, _position: u64, _reason: &str) {}

    /// The journal keeps nothing any more of what is settled here; told with each commit.
    fn forgotten(&mut self, _: &Checkpoint) {}

    /// Whether somebody waits for each commit: then it comes as soon as there is something to commit, and
    /// not with the others.
    fn is_awaited(&self) -> bool {
        false
    }
}

/// The committer of a source that has nothing to remember: a pipe, made-up data.
pub struct Forgetful;

impl Committer for Forgetful {
    fn commit<'a>(&'a mut self, _: &'a Checkpoint) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused: a missing file, a failed read.
    #[error("{context}: {error}")]
    Io {
        /// What was being done, with the path or address.
        context: String,
        /// The system's word.
        error: std::io::Error,
    },
    /// The environment is wrong: a port that is in use, a server that refused before it ever answered.
    #[error("{message}")]
    Environment {
        /// What happened, where, what to do.
        message: String,
    },
    /// The server that is read refuses, and no retry mends it.
    #[error("{message}")]
    Peer {
        /// What it said.
        message: String,
    },
    /// The input is not what the config says it is.
    #[error("{partition} at {position}: {message}")]
    Input {
        /// Which input.
        partition: String,
        /// Byte offset or number of the record.
        position: u64,
        /// What is wrong, and which setting changes it.
        message: String,
    },
}

impl SourceError {
    /// An I/O error while doing `context`.
    pub fn io(context: impl Into<String>, error: std::io::Error) -> Self {
        Self::Io {
            context: context.into(),
            error,
        }
    }

    /// Something wrong with the input itself.
    pub fn input(partition: &Partition, position: u64, message: impl Into<String>) -> Self {
        Self::Input {
            partition: partition.name().to_owned(),
            position,
            message: message.into(),
        }
    }
}
