//! Build: opens everything that a plan names, before the first record (I6).
//!
//! Owns the order of opening: plugins, then failover, sink and source, so that nothing is read that
//! has nowhere to go.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::books::OpenFailover;
use super::error::RunError;
use super::workers::{Done, Job, Pool, QUEUE_BATCHES};
use crate::config::plan::{Plan, ServicePlan};
use crate::journal::memory::{Memory, Retention};
use crate::journal::{Journal, Position};
use crate::metrics::Metrics;
use crate::plugin::{ChainPlan, Host};
use crate::sink::framing::Framing;
use crate::sink::{Delivery, Poisoned, Sink, SinkContext, Stop};
use crate::source::{Source, SourceContext};

/// Poisoned records on their way to the loop (I4); a sink waits for each.
const POISONED_MAX: usize = 16;

/// A pipeline with everything open, ready to run.
pub struct Pipeline {
    pub(super) service: ServicePlan,
    pub(super) source: Source,
    pub(super) replayable: bool,
    pub(super) chain: Arc<ChainPlan>,
    pub(super) pool: Pool,
    pub(super) jobs: async_channel::Sender<Job>,
    pub(super) results: async_channel::Receiver<Done>,
    pub(super) framing: Framing,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) delivery: Delivery,
    pub(super) sink: Box<dyn Sink>,
    pub(super) confirmed: watch::Receiver<Position>,
    pub(super) poisoned: mpsc::Receiver<Poisoned>,
    pub(super) failover: Option<OpenFailover>,
    pub(super) stop: Stop,
    pub(super) metrics: Arc<Metrics>,
}

/// Opens a plan. `fresh` forgets the positions that an earlier run left.
///
/// # Errors
/// Whatever cannot be opened, told by the part that it is.
pub async fn build(plan: Plan, host: &Host, stop: Stop, fresh: bool) -> Result<Pipeline, RunError> {
    let chain = Arc::new(ChainPlan::load(host, &plan.processors)?);
    let framing = plan.sink.framing().in_journal(plan.journal.bytes_max);
    let (jobs, queue) = async_channel::bounded(QUEUE_BATCHES);
    let (pool, results) = Pool::start(
        Arc::clone(&chain),
        framing.clone(),
        plan.service.scaling,
        queue,
    )?;
    let failover = match &plan.failover {
        Some(failover) => Some(OpenFailover {
            drops: failover.drops(),
            failover: failover.open().await?,
        }),
        None => None,
    };
    let delivery = plan.sink.delivery();
    let journal: Arc<dyn Journal> = Arc::new(Memory::new(Retention {
        bytes_max: plan.journal.bytes_max,
        age_max: plan.journal.age_max,
        history: delivery == Delivery::Published,
    }));
    let (confirmed_by_sink, confirmed) = watch::channel(Position::default());
    let (poisoned_by_sink, poisoned) = mpsc::channel(POISONED_MAX);
    let metrics = Arc::new(Metrics::default());
    let sink = plan
        .sink
        .open(SinkContext {
            pipeline: plan.service.pipeline_id.clone(),
            state_dir: plan.service.state_dir.clone(),
            journal: Arc::clone(&journal),
            confirmed: confirmed_by_sink,
            poisoned: poisoned_by_sink,
            stop: stop.clone(),
            metrics: Arc::clone(&metrics),
            reread: Arc::clone(&plan.reread_sink),
        })
        .await?;
    let source = plan
        .source
        .open(SourceContext {
            limits: plan.service.batch,
            state_dir: plan.service.state_dir.clone(),
            fresh,
        })
        .await?;
    Ok(Pipeline {
        replayable: plan.source.replayable(),
        service: plan.service,
        source,
        chain,
        pool,
        jobs,
        results,
        framing,
        journal,
        delivery,
        sink,
        confirmed,
        poisoned,
        failover,
        stop,
        metrics,
    })
}

impl Pipeline {
    /// Lines that tell a person where to look.
    pub fn greeting(&self) -> Vec<String> {
        self.sink.greeting()
    }

    /// The processors, in order, as `name version (digest)`.
    pub fn processors(&self) -> impl Iterator<Item = String> {
        self.chain.plugins.iter().map(|id| {
            let digest: String = id.digest.chars().take("sha256:".len() + 12).collect();
            format!("{} {} ({digest})", id.name, id.version)
        })
    }
}
