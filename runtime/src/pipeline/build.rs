//! Build: opens everything that a plan names, before the first record (I6).
//!
//! Owns the order of opening: plugins, then failover, journal, the port of operators, sink and source, so that nothing is read that
//! has nowhere to go.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::books::OpenFailover;
use super::error::RunError;
use super::operations::{Operations, Watched};
use super::workers::{Done, Job, Pool, QUEUE_BATCHES};
use crate::config::plan::{JournalPlan, Plan, ServicePlan};
use crate::journal::disk::{self, Disk};
use crate::journal::memory::{Memory, Retention};
use crate::journal::{Journal, Position};
use crate::metrics::Metrics;
use crate::plugin::{ChainPlan, Host, OnError};
use crate::port::gate::Credentials;
use crate::sink::framing::Framing;
use crate::sink::{Delivery, Poisoned, Sink, SinkContext, Stop};
use crate::source::{Source, SourceContext};

/// Poisoned records on their way to the loop (I4); a sink waits for each.
const POISONED_MAX: usize = 16;

/// The name under which a journal that survives remembers how far the sink is. No peer's name has a
/// slash.
pub(super) const SINK_CURSOR: &str = "/sink";

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
    /// Where the sink begins, and where the journal ended when it was opened.
    pub(super) from: Position,
    pub(super) head: Position,
    pub(super) delivery: Delivery,
    pub(super) sink: Box<dyn Sink>,
    pub(super) confirmed: watch::Receiver<Position>,
    pub(super) poisoned: mpsc::Receiver<Poisoned>,
    pub(super) failover: Option<OpenFailover>,
    /// What becomes of a record that cannot be framed.
    pub(super) unframed: OnError,
    pub(super) stop: Stop,
    pub(super) metrics: Arc<Metrics>,
    pub(super) operations: Option<Operations>,
}

/// Opens a plan. `fresh` forgets the positions that an earlier run left.
///
/// # Errors
/// Whatever cannot be opened, told by the part that it is.
pub async fn build(plan: Plan, host: &Host, stop: Stop, fresh: bool) -> Result<Pipeline, RunError> {
    let chain = Arc::new(ChainPlan::load(host, &plan.processors)?);
    let framing = plan.sink.framing().in_journal(plan.journal.chunk_room());
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
    let journal = open_journal(&plan.journal, delivery, fresh, framing.carrier.words()).await?;
    let marks = *journal.marks().borrow();
    let from = match delivery {
        Delivery::Published => marks.head,
        Delivery::Confirmed => {
            let remembered = journal.remembered(SINK_CURSOR);
            remembered.map_or(marks.tail, |left| left.at.max(marks.tail))
        }
    };
    let (confirmed_by_sink, confirmed) = watch::channel(from);
    let (poisoned_by_sink, poisoned) = mpsc::channel(POISONED_MAX);
    let metrics = Arc::new(Metrics::default());
    let watched = Watched {
        pipeline: plan.service.pipeline_id.clone(),
        delivery,
        metrics: Arc::clone(&metrics),
        journal: Arc::clone(&journal),
        stop: stop.clone(),
    };
    let operations = plan.service.metrics;
    let operations = operations.map(|listen| Operations::open(listen, watched));
    let operations = operations.transpose().map_err(RunError::Operations)?;
    let credentials = Credentials::of(&plan.service.state_dir);
    let sink = plan
        .sink
        .open(SinkContext {
            pipeline: plan.service.pipeline_id.clone(),
            state_dir: plan.service.state_dir.clone(),
            credentials: Arc::clone(&credentials),
            journal: Arc::clone(&journal),
            from,
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
            credentials,
            fresh,
            resume_at: journal.survives_crash().then(|| journal.checkpoint()),
            reread: Arc::clone(&plan.reread_source),
            metrics: Arc::clone(&metrics),
        })
        .await?;
    Ok(Pipeline {
        replayable: plan.source.replayable(),
        unframed: OnError::unless_said(failover.is_some(), plan.source.tells_senders()),
        service: plan.service,
        source,
        chain,
        pool,
        jobs,
        results,
        framing,
        journal,
        from,
        head: marks.head,
        delivery,
        sink,
        confirmed,
        poisoned,
        failover,
        stop,
        metrics,
        operations,
    })
}

/// Opens the journal that a plan names; where it is on disk, off the runtime's threads.
async fn open_journal(
    plan: &JournalPlan,
    delivery: Delivery,
    fresh: bool,
    frames: &'static str,
) -> Result<Arc<dyn Journal>, RunError> {
    let history = delivery == Delivery::Published;
    let Some(disk) = &plan.disk else {
        return Ok(Arc::new(Memory::new(Retention {
            bytes_max: plan.bytes_max,
            age_max: plan.age_max,
            history,
        })));
    };
    let options = disk::Options {
        path: disk.path.clone(),
        bytes_max: plan.bytes_max,
        age_max: plan.age_max,
        history,
        sync: disk.sync,
        fresh,
        frames,
    };
    let opened = tokio::task::spawn_blocking(|| Disk::open(options)).await;
    Ok(Arc::new(opened.expect("opening does not panic")?))
}

impl Pipeline {
    /// Lines that tell a person where to look.
    pub fn greeting(&self) -> Vec<String> {
        let mut lines = self.source.reader.greeting();
        lines.extend(self.sink.greeting());
        lines.extend(self.operations.as_ref().map(Operations::greeting));
        lines
    }

    /// The processors, in order, as `name version (digest)`.
    pub fn processors(&self) -> impl Iterator<Item = String> {
        self.chain.plugins.iter().map(|id| {
            let digest: String = id.digest.chars().take("sha256:".len() + 12).collect();
            format!("{} {} ({digest})", id.name, id.version)
        })
    }
}
