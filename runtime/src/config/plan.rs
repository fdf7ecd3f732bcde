//! The plan: a pipeline that was checked and can be built.
//!
//! Owns validated values only. What was written is `spec`; what runs is `pipeline`.

use std::path::PathBuf;
use std::time::Duration;

use crate::failover::FailoverPlan;
use crate::plugin::{PluginId, ProcessorPlan};
use crate::sink::{Delivery, Reread, SinkPlan};
use crate::source::{BatchLimits, SourcePlan};

/// A checked pipeline.
pub struct Plan {
    /// The pipeline file, for messages.
    pub file: PathBuf,
    /// `service`.
    pub service: ServicePlan,
    /// `source`.
    pub source: Box<dyn SourcePlan>,
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
        if self.sink.delivery() == Delivery::Published {
            sentences.push("with a memory journal a crash loses what it retained".to_owned());
        }
        if !self.source.replayable() {
            sentences.push(format!(
                "{} cannot be read again: a crash loses what was not delivered by then",
                self.source.describe()
            ));
        }
        sentences
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

/// `journal`: bounds of the memory journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalPlan {
    /// Most bytes kept.
    pub bytes_max: u64,
    /// Oldest record kept for readers that lag; `None`: bounded by bytes alone.
    pub age_max: Option<Duration>,
}
