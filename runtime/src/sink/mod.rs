//! Sinks: readers of the journal that carry frames to their peers.
//!
//! Owns the contract between the pipeline and a sink, and the table of drivers. A sink reads the
//! journal through a cursor, tells what is confirmed, and never commits. A driver is one file or
//! folder and one entry in [`DRIVERS`].

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::driver::{BoxFuture, Driver, ProbeStep, Reread};
use crate::journal::{Journal, Position};
use crate::metrics::Metrics;
use crate::port::gate::Credentials;

mod file;
pub mod framing;
mod plain;
mod stdout;
pub mod websocket;

/// Every sink that a pipeline can name.
pub static DRIVERS: &[&Driver<Box<dyn SinkPlan>>] =
    &[&websocket::DRIVER, &stdout::DRIVER, &file::DRIVER];

/// What "delivered" means for a sink (I1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A record is settled when the sink confirms it.
    Confirmed,
    /// A record is settled when the journal has it; each reader keeps its own account.
    Published,
}

/// A checked sink that can be built.
pub trait SinkPlan: Send + Sync + fmt::Debug {
    /// Where it delivers, for the first log line, without secrets.
    fn describe(&self) -> String;

    /// Which outcome settles a record.
    fn delivery(&self) -> Delivery;

    /// What the delivery guarantee is and why, in a sentence for `check` and the first log line.
    fn guarantee(&self) -> String;

    /// Whether a peer that keeps its place says where to go on, after a crash too.
    fn resumes(&self) -> bool {
        false
    }

    /// How outputs become frames.
    fn framing(&self) -> framing::Framing;

    /// Whether its peers have to show a credential of the stream.
    fn asks_for_credentials(&self) -> bool {
        false
    }

    /// The file that it appends to, if it does.
    fn writes(&self) -> Option<&Path> {
        None
    }

    /// The address and port that it listens on, if it does.
    fn listens(&self) -> Option<SocketAddr> {
        None
    }

    /// Binds, opens or prepares; dialling waits for `run`. A sink that confirms pins the journal here,
    /// before the first append: without a pin nothing is kept for it.
    fn open(&self, context: SinkContext) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>>;

    /// Reaches for the peer and tells layer by layer what happened (`check --connect`).
    fn probe(&self) -> BoxFuture<'_, Vec<ProbeStep>> {
        Box::pin(async { Vec::new() })
    }
}

/// An open sink.
pub trait Sink: Send {
    /// Carries the journal to its peers until the journal is closed and all is confirmed, or
    /// [`SinkContext::stop`] says how to end earlier.
    fn run(self: Box<Self>) -> BoxFuture<'static, Result<Delivered, SinkError>>;

    /// Lines that tell a person where to look, once it is open: `ws://127.0.0.1:9400/…`.
    fn greeting(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a sink is given when it is opened.
#[derive(Clone)]
pub struct SinkContext {
    /// The pipeline's name: the stream's name on the wire.
    pub pipeline: String,
    /// Where the state of this pipeline is kept.
    pub state_dir: PathBuf,
    /// Who may subscribe, where that is asked.
    pub credentials: Arc<Credentials>,
    /// What to carry.
    pub journal: Arc<dyn Journal>,
    /// Where a sink that confirms begins: an earlier run had all below confirmed.
    pub from: Position,
    /// Everything below this is confirmed.
    pub confirmed: watch::Sender<Position>,
    /// Records that cannot be delivered.
    pub poisoned: mpsc::Sender<Poisoned>,
    /// How the run is to end.
    pub stop: Stop,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Reads the sink's `config` again with today's secrets (after 401 and 403).
    pub reread: Reread,
}

/// How a run is asked to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Finish what was read: send, confirm, close.
    pub drain: CancellationToken,
    /// Leave at once, whatever is unconfirmed. Fires after the drain deadline or a second signal.
    pub abort: CancellationToken,
}

/// A record that no connection survives: it goes to the failover, and the sink goes on once it is
/// safe there (`settled` answered).
#[derive(Debug)]
pub struct Poisoned {
    /// Its position.
    pub position: Position,
    /// Its formatted bytes.
    pub record: Bytes,
    /// What it did.
    pub reason: String,
    /// Answered when the failover has it.
    pub settled: oneshot::Sender<()>,
}

/// A sink's own account at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Everything below is confirmed.
    pub confirmed: Position,
    /// Records that were sent more than once.
    pub resent: u64,
    /// Connections after the first.
    pub reconnects: u64,
}

/// Why a sink cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The environment is wrong: refused for good before the first success, an address in use.
    #[error("{message}")]
    Environment {
        /// What happened, where, what to do.
        message: String,
    },
    /// Failed while running.
    #[error("{context}: {error}")]
    Io {
        /// What was being done.
        context: String,
        /// The system's word.
        error: std::io::Error,
    },
    /// The peer breaks the protocol in a way that no retry mends.
    #[error("{message}")]
    Peer {
        /// What it did.
        message: String,
    },
}
