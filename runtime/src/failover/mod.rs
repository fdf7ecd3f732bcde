//! The failover: where records go that could not be formatted or delivered.
//!
//! Owns what is kept of such a record and the promise that `write` returns only when it is safe.
//! The pipeline alone writes to it. A driver is one file and one entry in [`DRIVERS`].

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use crate::driver::{BoxFuture, Driver};

mod entry;
mod file;
mod stderr;

/// Every failover that a pipeline can name.
pub static DRIVERS: &[&Driver<Box<dyn FailoverPlan>>] = &[&file::DRIVER, &stderr::DRIVER];

/// A record that failed, with all that is needed to mend and replay it.
#[derive(Clone, Debug)]
pub struct Failed<'a> {
    /// When it failed.
    pub when: SystemTime,
    /// Where: `format`, `frame`, `deliver` or `drain`.
    pub stage: &'a str,
    /// Name and digest of the plugin at fault.
    pub plugin: Option<(&'a str, &'a str)>,
    /// Partition and position at which the source has it.
    pub partition: &'a str,
    /// See `partition`.
    pub position: u64,
    /// Why it failed, in a sentence.
    pub reason: &'a str,
    /// The record: as read for `format` and `frame`, as formatted for `deliver` and `drain`.
    pub record: &'a [u8],
}

/// A checked failover that can be opened.
pub trait FailoverPlan: Send + Sync + fmt::Debug {
    /// What it is, for the first log line.
    fn describe(&self) -> String;

    /// Whether what goes there counts as `dropped`, because nothing keeps it (`stderr`).
    fn drops(&self) -> bool;

    /// The file that it appends to, if it does.
    fn writes(&self) -> Option<&Path> {
        None
    }

    /// Opens it; creates what is missing.
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Failover>, FailoverError>>;
}

/// An open failover.
pub trait Failover: Send {
    /// Keeps the records. When it returns `Ok` they are safe: synced, or acknowledged.
    fn write<'a>(
        &'a mut self,
        failed: &'a [Failed<'a>],
    ) -> BoxFuture<'a, Result<(), FailoverError>>;
}

/// The failover cannot keep a record: the run stops with the record unacknowledged.
#[derive(Debug, thiserror::Error)]
#[error("failover {context}: {error}")]
pub struct FailoverError {
    /// Which failover, with its path.
    pub context: String,
    /// The system's word.
    pub error: std::io::Error,
}
