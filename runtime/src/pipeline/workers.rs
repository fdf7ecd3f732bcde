//! Workers: threads that run the plugin chain, because guests are synchronous.
//!
//! Owns the queue before them, how many there are, and giving their results back in reading order.
//! Never touches the journal. The loop starts the pool, tells it to look at the queue, and receives.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OwnedSemaphorePermit;

use crate::config::plan::Scaling;
use crate::plugin::{Chain, ChainPlan, Failure, PluginError};
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
    /// Inputs that a plugin failed on and `on_error: pass` let go on.
    pub(super) passed: Vec<Failed>,
    /// Held until the batch is appended: it bounds the reorder buffer (I4).
    pub(super) _permit: OwnedSemaphorePermit,
}

/// An input that failed.
pub(super) struct Failed {
    pub(super) input: u32,
    pub(super) at: FailedAt,
    pub(super) reason: String,
    /// It is no UTF-8, and a frame is text.
    pub(super) invalid_utf8: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            input: failure.input,
            at: FailedAt::Plugin(failure.stage),
            reason: failure.reason,
            invalid_utf8: false,
        }
    }
}

impl Done {
    /// Takes the inputs from `input` on off the end, as they were read.
    pub(super) fn split_off(&mut self, input: u32) -> Batch {
        self.outputs.truncate(input);
        self.failures.retain(|failed| failed.input < input);
        self.passed.retain(|passed| passed.input < input);
        self.batch.split_off(input as usize)
    }
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
    crew: Arc<Mutex<Crew>>,
    idle_looks: u32,
}

/// How many workers there are. An idle worker that is to end does so after its next batch, so it is
/// counted until then, and taken back before a new one is started: never more than `max` run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Crew {
    /// Threads that run.
    live: usize,
    /// Those among them that end after their batch.
    leaving: usize,
}

impl Crew {
    /// Threads that stay.
    fn staying(self) -> usize {
        self.live - self.leaving
    }

    /// Whether one more is wanted than run: takes one back that was leaving, where there is one.
    fn grow(&mut self, max: usize) -> bool {
        if self.leaving > 0 {
            self.leaving -= 1;
            return false;
        }
        self.live < max
    }

    /// Lets one go, down to `min`.
    fn shrink(&mut self, min: usize) -> bool {
        let one_less = self.staying() > min;
        self.leaving += usize::from(one_less);
        one_less
    }

    /// Whether the worker that asks is one that leaves; it is gone then.
    fn leave(&mut self) -> bool {
        let leaves = self.leaving > 0;
        self.leaving -= usize::from(leaves);
        self.live -= usize::from(leaves);
        leaves
    }
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
            crew: Arc::default(),
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
        let worker = Worker {
            chain,
            framing: Arc::clone(&self.framing),
            jobs: self.jobs.clone(),
            worked,
            crew: Arc::clone(&self.crew),
        };
        std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || worker.work())
            .map_err(|error| PluginError::environment("worker thread", error.to_string()))?;
        lock(&self.crew).live += 1;
        Ok(())
    }

    /// Takes no more jobs: whoever sends one is told.
    pub(super) fn close(&self) {
        self.jobs.close();
    }

    /// Batches that wait for a worker.
    pub(super) fn queued_batches(&self) -> usize {
        self.jobs.len()
    }

    /// Workers that stay.
    pub(super) fn workers(&self) -> usize {
        lock(&self.crew).staying()
    }

    /// Looks at the queue: one worker more when it is full, one less when it stays empty.
    pub(super) fn scale(&mut self) -> Result<(), PluginError> {
        let lag = self.jobs.len() as f64 / QUEUE_BATCHES as f64;
        self.idle_looks = if lag < self.scaling.down_below {
            self.idle_looks + 1
        } else {
            0
        };
        let before = lock(&self.crew).staying();
        if lag > self.scaling.up_above {
            let one_more = lock(&self.crew).grow(self.scaling.max);
            if one_more {
                self.add()?;
            }
        } else if self.idle_looks >= IDLE_LOOKS {
            self.idle_looks = 0;
            lock(&self.crew).shrink(self.scaling.min);
        }
        // Only this task lets workers go or takes them back: how many stay changes nowhere else.
        let workers = lock(&self.crew).staying();
        match workers.cmp(&before) {
            Ordering::Greater => tracing::debug!(workers, lag, "one worker more"),
            Ordering::Less => tracing::debug!(workers, lag, "one worker less"),
            Ordering::Equal => {}
        }
        Ok(())
    }
}

fn lock(crew: &Mutex<Crew>) -> MutexGuard<'_, Crew> {
    crew.lock().expect("no code panics while it holds the crew")
}

struct Worker {
    chain: Chain,
    framing: Arc<Framing>,
    jobs: async_channel::Receiver<Job>,
    worked: async_channel::Sender<Done>,
    crew: Arc<Mutex<Crew>>,
}

impl Worker {
    fn work(mut self) {
        while let Ok(job) = self.jobs.recv_blocking() {
            let done = self.transform(job);
            if self.worked.send_blocking(done).is_err() {
                return;
            }
            if lock(&self.crew).leave() {
                return; // one worker less loses nothing: its batch was sent on
            }
        }
    }

    fn transform(&mut self, job: Job) -> Done {
        let Job { batch, permit } = job;
        let chain = &mut self.chain;
        let worked = catch_unwind(AssertUnwindSafe(|| chain.transform(&batch)));
        let Ok(transformed) = worked else {
            return broken(batch, permit);
        };
        let mut outputs = transformed.outputs;
        let mut failures: Vec<Failed> = transformed.failures.into_iter().map(Into::into).collect();
        let passed = transformed.passed.into_iter().map(Into::into).collect();
        let unframeable = self.framing.check(&batch, &outputs);
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
                        invalid_utf8: found.invalid_utf8,
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
            passed,
            _permit: permit,
        }
    }
}

/// A batch on which the host itself panicked: all its records fail, so that none waits for ever.
fn broken(batch: Batch, permit: OwnedSemaphorePermit) -> Done {
    let reason = "the worker panicked (this is a defect of wirefall)";
    let failed = |input| Failed {
        input,
        at: FailedAt::Framing,
        reason: reason.to_owned(),
        invalid_utf8: false,
    };
    Done {
        failures: (0..batch.records.len() as u32).map(failed).collect(),
        outputs: Outputs::default(),
        passed: Vec::new(),
        batch,
        _permit: permit,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// However the queue swings, and whether or not those that leave have gone yet.
    #[test]
    fn i4_no_more_workers_than_max_and_no_fewer_than_min() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (min, max) = (1, 4);
            let mut crew = Crew {
                live: min,
                leaving: 0,
            };
            for _ in 0..200 {
                match random.u32(..3) {
                    0 => crew.live += usize::from(crew.grow(max)),
                    1 => assert!(crew.shrink(min) || crew.staying() == min),
                    _ => assert!(crew.leave() || crew.leaving == 0),
                }
                assert!(
                    crew.live <= max && crew.staying() >= min,
                    "{seed}: {crew:?}"
                );
            }
        }
    }
}
