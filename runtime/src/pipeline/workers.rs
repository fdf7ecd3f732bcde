//! Workers: threads that run the plugin chain, because guests are synchronous.
//!
//! Owns the queue before them, how many there are, and giving their results back in reading order.
//! Never touches the journal. The loop starts the pool, tells it to look at the queue, and receives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use crate::config::plan::Scaling;
use crate::plugin::{Chain, ChainPlan, PluginError};
use crate::record::{Batch, Outputs};
use crate::sink::framing::Framing;

/// Batches that wait for a worker (I4); how full this is decides how many workers run.
pub(super) const QUEUE_BATCHES: usize = 8;

/// Looks at a nearly empty queue before a worker is let go.
const IDLE_LOOKS: u32 = 10;

/// A batch on its way to a worker, with its place among those in flight.
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A batch that went through the chain and can be framed.
pub(super) struct Done {
    pub(super) batch: Batch,
    pub(super) outputs: Outputs,
    /// Inputs that failed, ascending and unique; their outputs are withdrawn.
    pub(super) failures: Vec<Failed>,
    pub(super) passed: u32,
    /// Held until the batch is appended: it bounds the reorder buffer (I4).
    pub(super) _permit: OwnedSemaphorePermit,
}

/// An input that failed.
pub(super) struct Failed {
    pub(super) input: u32,
    pub(super) at: FailedAt,
    pub(super) reason: String,
}

/// Where an input failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedAt {
    /// In the processor of this index.
    Plugin(usize),
    /// Its output does not fit a frame.
    Framing,
}

/// The workers.
pub(super) struct Pool {
    chain: Arc<ChainPlan>,
    framing: Arc<Framing>,
    scaling: Scaling,
    jobs: async_channel::Receiver<Job>,
    /// Weak, so that the results end with the last worker.
    worked: async_channel::WeakSender<Done>,
    /// Workers with an index at or above it end after their batch.
    wanted: Arc<AtomicUsize>,
    idle_looks: u32,
}

impl Pool {
    /// Starts the fewest workers. Every chain is started here or in [`scale`](Self::scale), so a
    /// config that a plugin refuses is told before the first record (I6).
    pub(super) fn start(
        chain: Arc<ChainPlan>,
        framing: Framing,
        scaling: Scaling,
        jobs: async_channel::Receiver<Job>,
    ) -> Result<(Self, async_channel::Receiver<Done>), PluginError> {
        let (worked, results) = async_channel::bounded(QUEUE_BATCHES);
        let pool = Self {
            chain,
            framing: Arc::new(framing),
            scaling,
            jobs,
            worked: worked.downgrade(),
            wanted: Arc::new(AtomicUsize::new(0)),
            idle_looks: 0,
        };
        for _ in 0..scaling.min {
            pool.add()?;
        }
        Ok((pool, results))
    }

    fn add(&self) -> Result<(), PluginError> {
        let Some(worked) = self.worked.upgrade() else {
            return Ok(()); // the input is at its end
        };
        let chain = self.chain.start()?;
        let index = self.wanted.fetch_add(1, Ordering::Relaxed);
        let worker = Worker {
            chain,
            framing: Arc::clone(&self.framing),
            jobs: self.jobs.clone(),
            worked,
            index,
            wanted: Arc::clone(&self.wanted),
        };
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || worker.work())
            .map_err(|error| PluginError::environment("worker thread", error.to_string()))?;
        Ok(())
    }

    /// Looks at the queue: one worker more when it is full, one less when it stays empty.
    pub(super) fn scale(&mut self) -> Result<(), PluginError> {
        let workers = self.wanted.load(Ordering::Relaxed);
        let lag = self.jobs.len() as f64 / QUEUE_BATCHES as f64;
        self.idle_looks = if lag < self.scaling.down_below {
            self.idle_looks + 1
        } else {
            0
        };
        if lag > self.scaling.up_above && workers < self.scaling.max {
            self.add()?;
            tracing::debug!(workers = workers + 1, lag, "one worker more");
        } else if self.idle_looks >= IDLE_LOOKS && workers > self.scaling.min {
            self.idle_looks = 0;
            self.wanted.store(workers - 1, Ordering::Relaxed);
            tracing::debug!(workers = workers - 1, lag, "one worker less");
        }
        Ok(())
    }
}

struct Worker {
    chain: Chain,
    framing: Arc<Framing>,
    jobs: async_channel::Receiver<Job>,
    worked: async_channel::Sender<Done>,
    index: usize,
    wanted: Arc<AtomicUsize>,
}

impl Worker {
    fn work(mut self) {
        while let Ok(job) = self.jobs.recv_blocking() {
            let done = self.transform(job);
            if self.worked.send_blocking(done).is_err() {
                return;
            }
            if self.index >= self.wanted.load(Ordering::Relaxed) {
                return; // one worker less loses nothing: its batch was sent on
            }
        }
    }

    fn transform(&mut self, job: Job) -> Done {
        let Job { batch, permit } = job;
        let transformed = self.chain.transform(&batch);
        let mut outputs = transformed.outputs;
        let mut failures: Vec<Failed> = transformed
            .failures
            .into_iter()
            .map(|failure| Failed {
                input: failure.input,
                at: FailedAt::Plugin(failure.stage),
                reason: failure.reason,
            })
            .collect();
        let unframeable = self.framing.check(&outputs);
        if !unframeable.is_empty() {
            for found in unframeable {
                let input = outputs.sources[found.output];
                if failures
                    .last()
                    .is_none_or(|last| last.input != input || last.at != FailedAt::Framing)
                {
                    failures.push(Failed {
                        input,
                        at: FailedAt::Framing,
                        reason: found.reason,
                    });
                }
            }
            failures.sort_by_key(|failed| failed.input);
            let withdrawn: Vec<u32> = failures.iter().map(|failed| failed.input).collect();
            outputs.withdraw(&withdrawn);
        }
        Done {
            batch,
            outputs,
            failures,
            passed: transformed.passed,
            _permit: permit,
        }
    }
}

/// Gives batches back in reading order. Bounded by the permits of the batches in flight.
#[derive(Default)]
pub(super) struct Reorder {
    early: BTreeMap<u64, Done>,
    next: u64,
}

impl Reorder {
    pub(super) fn insert(&mut self, done: Done) {
        self.early.insert(done.batch.number, done);
    }

    /// The next batch in order, if it is here (I3).
    pub(super) fn next(&mut self) -> Option<Done> {
        let done = self.early.remove(&self.next)?;
        self.next += 1;
        Some(done)
    }
}
