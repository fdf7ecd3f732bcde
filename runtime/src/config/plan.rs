//! The plan: a pipeline that was checked and can be built.
//!
//! Owns validated values only. What was written is `spec`; what runs is `pipeline`.

use std::path::PathBuf;
use std::time::Duration;

use crate::driver::Reread;
use crate::failover::FailoverPlan;
use crate::journal::disk::Sync;
use crate::plugin::{PluginId, ProcessorPlan};
use crate::port::keys::Address;
use crate::sink::{Delivery, SinkPlan};
use crate::source::{BatchLimits, SourcePlan};

/// A checked pipeline.
pub struct Plan {
    /// The pipeline file, for messages.
    pub file: PathBuf,
    /// `service`.
    pub service: ServicePlan,
    /// `source`.
    pub source: Box<dyn SourcePlan>,
    /// Expands `source.config` again.
    pub reread_source: Reread,
    /// `processors`, in order; empty means records go through unchanged.
    pub processors: Vec<ProcessorPlan>,
    /// Who each processor is, in the same order.
    pub plugins: Vec<PluginId>,
    /// `sink`.
    pub sink: Box<dyn SinkPlan>,
    /// Expands `sink.config` again.
    pub reread_sink: Reread,
    /// `failover`.
    pub failover: Option<Box<dyn FailoverPlan>>,
    /// `journal`.
    pub journal: JournalPlan,
}

impl Plan {
    /// What delivery means for this pipeline and why, a sentence each (I1): printed by `check` and in
    /// the first log lines.
    pub fn guarantees(&self) -> Vec<String> {
        let mut sentences = vec![self.sink.guarantee()];
        if self.sink.resumes() {
            sentences.push(self.exactly_once());
        }
        let published = self.sink.delivery() == Delivery::Published;
        sentences.extend(self.journal.guarantee(published));
        sentences.extend(self.source.guarantee());
        if !self.source.replayable() {
            let safe = match self.journal.disk {
                None => "delivered",
                Some(_) => "in the journal",
            };
            sentences.push(format!(
                "{} cannot be read again: a crash loses what was not {safe} by then",
                self.source.describe()
            ));
        }
        if self.source.begins_anew() {
            sentences.push(format!(
                "{} is read from its beginning by each run: what an earlier one had read comes again",
                self.source.describe()
            ));
        }
        sentences
    }

    /// Whether each record has its effect once over crashes of either side, and what is missing if not.
    fn exactly_once(&self) -> String {
        let mut missing = Vec::new();
        match &self.journal.disk {
            None => missing.push(
                "the journal is in memory, so a crash of Wirefall begins a new numbering \
                 (`journal: { driver: disk }` keeps it)"
                    .to_owned(),
            ),
            Some(disk) if disk.sync == Sync::None => missing.push(
                "the journal is not synced, so a crash of the machine may begin a new numbering \
                 (`sync: batch`)"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        if !self.source.replayable() {
            let source = self.source.describe();
            missing.push(format!("{source} cannot be read again"));
        }
        if self.source.begins_anew() {
            let source = self.source.describe();
            missing.push(format!("{source} is read from its beginning again"));
        }
        match missing.is_empty() {
            true => "exactly once, whichever side crashes: the receiver keeps its place with the \
                     records, and the journal on disk keeps what it may come back for"
                .to_owned(),
            false => format!(
                "exactly once over breaks and crashes of the receiver; not over those of Wirefall: {}",
                missing.join("; ")
            ),
        }
    }
}

/// `service`: what concerns the whole pipeline.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// Name of the pipeline and of its stream.
    pub pipeline_id: String,
    /// How batches are cut (`batch_size`, `batch_bytes`, `batch_wait`).
    pub batch: BatchLimits,
    /// Wasm workers.
    pub scaling: Scaling,
    /// Longest drain after the first signal (`shutdown_timeout`).
    pub shutdown_timeout: Duration,
    /// Where positions and caches of this pipeline are kept (`state`).
    pub state_dir: PathBuf,
    /// Where operators ask how the run is (`metrics`).
    pub metrics: Option<Address>,
}

/// How many workers run, by how full the queue before them is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// Fewest workers, at least 1.
    pub min: usize,
    /// Most workers.
    pub max: usize,
    /// One more above this share of the queue.
    pub up_above: f64,
    /// One less below it.
    pub down_below: f64,
}

/// `journal`: its bounds, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPlan {
    /// Most bytes kept.
    pub bytes_max: u64,
    /// Oldest record kept for readers that lag; `None`: bounded by bytes alone.
    pub age_max: Option<Duration>,
    /// `driver: disk`; `None`: in memory.
    pub disk: Option<DiskPlan>,
}

/// A journal on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// Its folder.
    pub path: PathBuf,
    /// When it is synced.
    pub sync: Sync,
}

impl JournalPlan {
    /// Bytes into which frames have to fit twice. On disk an append is at most half of all, because the
    /// segment that is written to cannot give way.
    pub fn chunk_room(&self) -> u64 {
        match self.disk {
            None => self.bytes_max,
            Some(_) => self.bytes_max / 2,
        }
    }

    /// What becomes of records when Wirefall or its machine goes down.
    fn guarantee(&self, published: bool) -> Option<String> {
        let Some(disk) = &self.disk else {
            let loses = "with a memory journal a crash loses what it retained";
            return published.then(|| loses.to_owned());
        };
        let path = disk.path.display();
        Some(match disk.sync {
            Sync::Batch => format!(
                "the journal in {path} is synced with every append: no crash loses what it has"
            ),
            Sync::Interval(interval) => format!(
                "the journal in {path} is synced every {}: no crash loses what it has, and nothing is \
                 sent or committed before it is synced",
                humantime::format_duration(interval)
            ),
            Sync::None => format!(
                "the journal in {path} is not synced (`sync: none`): a crash of the process loses \
                 nothing that it has, one of the machine what the kernel had not written"
            ),
        })
    }
}
