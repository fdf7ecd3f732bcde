//! Why a run fails.
//!
//! Owns the one error of the engine: it says whose fault it is by what it wraps. `cli` turns it into an
//! exit code.

use crate::checkpoint::CheckpointError;
use crate::failover::FailoverError;
use crate::journal::JournalError;
use crate::plugin::PluginError;
use crate::sink::SinkError;
use crate::source::SourceError;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source cannot go on.
    #[error("source: {0}")]
    Source(#[from] SourceError),
    /// A plugin cannot be used, or not be started again.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A record failed where the configuration says that this ends the run.
    #[error("{record}: {reason}\n  {help}")]
    Rejected {
        /// Plugin and place of the record.
        record: String,
        /// Why it failed.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// More failures than tolerated.
    #[error(
        "failed: more than {failures_max} of the last {window} records failed in {plugin} (`tolerance`); the last reason: {reason}"
    )]
    Intolerable {
        /// Which plugin.
        plugin: String,
        /// See `Tolerance`.
        failures_max: u32,
        /// See `Tolerance`.
        window: u32,
        /// Why the last one failed.
        reason: String,
    },
    /// The failover cannot keep a record.
    #[error(
        "{0}\n  the record is not acknowledged: a source that can be read again gives it to the next run"
    )]
    Failover(#[from] FailoverError),
    /// The sink cannot go on.
    #[error("sink: {0}")]
    Sink(#[from] SinkError),
    /// The journal refused.
    #[error("journal: {0}")]
    Journal(#[from] JournalError),
    /// The port of operators cannot be opened.
    #[error("{0} (`service.metrics`)")]
    Operations(String),
    /// The accounting is wrong: a defect of ours.
    #[error("checkpoint: {0} (this is a defect of wirefall)")]
    Checkpoint(#[from] CheckpointError),
}
