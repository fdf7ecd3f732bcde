//! The loop: the only caller of acknowledge and commit (I1).
//!
//! Owns a run from its first batch to its account. Batches come from the workers in reading order;
//! failures go to the failover before anything of their batch is settled; frames go to the journal;
//! confirmations come back from the sink and move the checkpoint. While the journal is full the loop
//! takes no batch, and that holds the source back (I4), but it still hears the sink.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::account::Account;
use super::books::{Beginning, Books};
use super::build::{Pipeline, SINK_CURSOR};
use super::error::RunError;
use super::operations::Operations;
use super::workers::{Done, Job, Pool, QUEUE_BATCHES, Reorder};
use crate::driver::BoxFuture;
use crate::journal::{Journal, JournalError, Marks, Position};
use crate::metrics::Metrics;
use crate::record::Batch;
use crate::sink::{Delivered, Delivery, Poisoned, SinkError, Stop};
use crate::source::{Oddities, Reader, SourceError};

/// How often settled positions are committed while a run goes on.
const COMMIT_EVERY: Duration = Duration::from_millis(200);

/// How often the number of workers is looked at.
const SCALE_EVERY: Duration = Duration::from_millis(100);

/// How long a sink may take to leave after it was told to abort.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Where every input went.
    pub account: Account,
    /// Why it failed, if it did.
    pub error: Option<RunError>,
}

/// How the reading task ends.
type ReadEnd = Result<(), SourceError>;

/// What was read until now, whatever becomes of the task that reads.
#[derive(Default)]
struct Seen {
    records: AtomicU64,
    oddities: Mutex<Oddities>,
}

impl Seen {
    fn note(&self, read: &Result<Option<Batch>, SourceError>, oddities: Oddities) {
        if let Ok(Some(batch)) = read {
            let records = batch.records.len() as u64;
            self.records.fetch_add(records, Ordering::Relaxed);
        }
        *self.oddities.lock().unwrap_or_else(PoisonError::into_inner) = oddities;
    }

    fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    fn oddities(&self) -> Oddities {
        *self.oddities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipeline {
    /// Runs until the source ends and all is confirmed, a signal stops it, or something fails.
    pub async fn run(self) -> Ended {
        let Self {
            service,
            source,
            jobs,
            stop,
            ..
        } = self;
        let seen = Arc::<Seen>::default();
        let in_flight = QUEUE_BATCHES * 2 + service.scaling.max;
        let reading = tokio::spawn(read_batches(
            source.reader,
            jobs,
            Arc::new(Semaphore::new(in_flight)),
            stop.clone(),
            Arc::clone(&seen),
        ));
        let operations = self.operations.map(Operations::serve);
        let _watched = operations.map(|serve| AbortOnDropHandle::new(tokio::spawn(serve)));
        let survives = self.journal.survives_crash();
        let confirms = self.delivery == Delivery::Confirmed;
        let keep = confirms && (survives || !self.replayable);
        let books = Books::new(Beginning {
            delivery: self.delivery,
            survives,
            from: self.from,
            head: self.head,
            start: source.start,
            committer: source.committer,
            failover: self.failover,
            unframed: self.unframed,
            chain: self.chain,
            framing: self.framing,
            kept: keep.then(|| self.journal.pin(self.from)),
        });
        let run = Run {
            books,
            journal: &*self.journal,
            marks: self.journal.marks(),
            survives,
            reorder: Reorder::default(),
            input: Input::Open,
            started: Instant::now(),
            sink: tokio::spawn(self.sink.run()),
            reading: Some(reading),
            stop,
            drain_timeout: service.shutdown_timeout,
            pool: self.pool,
            results: self.results,
            confirmed: self.confirmed,
            poisoned: self.poisoned,
            error: None,
            seen,
            metrics: self.metrics,
        };
        run.finish(self.replayable).await
    }
}

/// Reads and numbers batches until the end, a signal, or an error.
async fn read_batches(
    mut reader: Box<dyn Reader>,
    jobs: async_channel::Sender<Job>,
    in_flight: Arc<Semaphore>,
    stop: Stop,
    seen: Arc<Seen>,
) -> ReadEnd {
    let mut number = 0;
    let mut closing = false;
    loop {
        let permit = Arc::clone(&in_flight)
            .acquire_owned()
            .await
            .expect("it is never closed");
        let next = tokio::select! {
            biased;
            () = stop.drain.cancelled(), if !closing => {
                reader.close();
                closing = true;
                continue;
            }
            next = reader.next() => next,
        };
        seen.note(&next, reader.oddities());
        let Some(mut batch) = next? else { break };
        batch.number = number;
        number += 1;
        if jobs.send(Job { batch, permit }).await.is_err() {
            break; // the loop is gone; what was read is unconfirmed
        }
    }
    Ok(())
}

/// Whether batches still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// No more batches; what was accepted is still to be appended.
    Ended,
    /// The journal is closed: the sink ends when all is confirmed.
    Closed,
}

struct Run<'a> {
    books: Books,
    journal: &'a dyn Journal,
    marks: watch::Receiver<Marks>,
    /// What is durable in the journal is settled.
    survives: bool,
    reorder: Reorder,
    input: Input,
    started: Instant,
    sink: JoinHandle<Result<Delivered, SinkError>>,
    reading: Option<JoinHandle<ReadEnd>>,
    stop: Stop,
    drain_timeout: Duration,
    pool: Pool,
    results: async_channel::Receiver<Done>,
    confirmed: watch::Receiver<Position>,
    poisoned: mpsc::Receiver<Poisoned>,
    error: Option<RunError>,
    /// Records that the reading task has read.
    seen: Arc<Seen>,
    metrics: Arc<Metrics>,
}

impl Run<'_> {
    async fn finish(mut self, replayable: bool) -> Ended {
        let delivered = self.carry().await;
        let confirmed = *self.confirmed.borrow();
        self.confirm(confirmed);
        self.stop.drain.cancel();
        self.finish_journal().await;
        if replayable {
            self.reading.iter().for_each(JoinHandle::abort); // what it holds is read again
        } else {
            match timeout(self.drain_timeout, self.keep_the_rest()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.fail(error),
                Err(_) => tracing::warn!("the workers do not come to an end; leaving"),
            }
        }
        let _ = timeout(ABORT_GRACE, self.reading_ended()).await;
        if let Err(error) = self.books.commit(self.journal).await {
            self.fail(error);
        }
        let kept = self.books.kept_in_journal();
        let mut account = self.books.close(self.seen.records());
        account.close(delivered, self.seen.oddities());
        if !replayable && account.unconfirmed > kept {
            tracing::warn!(
                records = account.unconfirmed - kept,
                "unconfirmed, from a source that cannot be read again, and no `failover` has them"
            );
        }
        Ended {
            account,
            error: self.error,
        }
    }

    /// Takes the reading task's last word.
    async fn reading_ended(&mut self) {
        let Some(reading) = self.reading.take() else {
            return;
        };
        match reading.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(error.into()),
            Err(_aborted) => {}
        }
    }

    /// Carries batches and confirmations until the sink ends.
    async fn carry(&mut self) -> Delivered {
        let journal = self.journal;
        let mut append: Option<BoxFuture<'_, Result<Position, JournalError>>> = None;
        let mut scale = interval(SCALE_EVERY);
        let mut commit = interval(COMMIT_EVERY);
        scale.set_missed_tick_behavior(MissedTickBehavior::Skip);
        commit.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let drain = self.stop.drain.clone();
        let abort = self.stop.abort.clone();
        let mut drain_until: Option<Instant> = None;
        let mut abort_at: Option<Instant> = None;
        let mut confirmed_open = true;
        loop {
            if append.is_none() && self.input != Input::Closed {
                self.accept_in_order().await;
                append = self.next_append(journal);
                if append.is_none() && self.input == Input::Ended {
                    journal.close();
                    self.input = Input::Closed;
                }
            }
            let flush_at = self.books.framer.deadline().map(|at| self.started + at);
            tokio::select! {
                biased;
                ended = &mut self.sink => return self.sink_ended(ended),
                () = abort.cancelled(), if abort_at.is_none() => {
                    abort_at = Some(Instant::now() + ABORT_GRACE);
                }
                () = until(abort_at) => {
                    self.sink.abort();
                    return Delivered { confirmed: *self.confirmed.borrow(), ..Delivered::default() };
                }
                () = drain.cancelled(), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + self.drain_timeout);
                }
                () = until(drain_until), if abort_at.is_none() => {
                    tracing::warn!(timeout = ?self.drain_timeout, "not all is confirmed in time (`shutdown_timeout`); leaving");
                    abort.cancel();
                }
                Some(poisoned) = self.poisoned.recv() => {
                    if let Err(error) = self.books.poisoned(poisoned).await {
                        self.fail(error);
                    }
                }
                changed = self.confirmed.changed(), if confirmed_open => {
                    confirmed_open = changed.is_ok();
                    let confirmed = *self.confirmed.borrow_and_update();
                    self.confirm(confirmed);
                }
                Ok(()) = self.marks.changed(), if self.survives => {
                    self.marks.borrow_and_update();
                    self.durable();
                }
                appended = wait(&mut append) => {
                    append = None;
                    match appended {
                        Ok(_) => {
                            let durable = self.marks.borrow().durable;
                            self.note(|books| books.appended(durable));
                        }
                        Err(error) => {
                            // Positions are given out already: nothing may take those of the chunk.
                            self.fail(error.into());
                            journal.close();
                            self.input = Input::Closed;
                        }
                    }
                }
                worked = self.results.recv(), if append.is_none() && self.input == Input::Open => {
                    match worked {
                        Ok(done) => self.reorder.insert(done),
                        Err(_) => {
                            self.input = Input::Ended;
                            self.pool.close();
                            self.reading_ended().await;
                        }
                    }
                }
                () = until(flush_at), if append.is_none() => self.books.framer.close(),
                () = async {}, if self.books.is_awaited() => {
                    if let Err(error) = self.books.commit(self.journal).await {
                        self.fail(error);
                    }
                }
                _ = commit.tick(), if self.books.has_news() => {
                    if let Err(error) = self.books.commit(self.journal).await {
                        self.fail(error);
                    }
                }
                _ = scale.tick() => {
                    if self.input == Input::Open && let Err(error) = self.pool.scale() {
                        self.fail(error.into());
                    }
                    self.tell();
                }
            }
        }
    }

    /// Brings the metrics up to what the loop has counted.
    fn tell(&self) {
        let flow = &self.metrics.flow;
        let account = self.books.account();
        let oddities = self.seen.oddities();
        // First what is settled, then what was read: nothing seems to be settled that was not read.
        for (counter, count) in [
            (&flow.delivered, account.delivered),
            (&flow.published, account.published),
            (&flow.filtered, account.filtered),
            (&flow.failed_over, account.failed_over),
            (&flow.dropped, account.dropped),
            (&flow.passed, account.passed),
            (&flow.carried_in, account.carried_in),
            (&flow.read, self.seen.records()),
            (&flow.source_missed, oddities.missed),
            (&flow.source_gaps, oddities.gaps),
            (
                &flow.journal_waits,
                u64::from(self.journal.trouble().is_some()),
            ),
            (&flow.queued_batches, self.pool.queued_batches() as u64),
            (&flow.queue_batches_max, QUEUE_BATCHES as u64),
            (&flow.workers, self.pool.workers() as u64),
        ] {
            counter.set(count);
        }
    }

    /// Takes the batches that are next in order, until there are frames to append.
    async fn accept_in_order(&mut self) {
        while self.error.is_none() && !self.books.framer.has_frames() {
            let Some(done) = self.reorder.next() else {
                break;
            };
            let now = self.started.elapsed();
            if let Err(error) = self.books.accept(done, now).await {
                self.fail(error);
            }
        }
        if self.input == Input::Ended {
            self.books.framer.close();
        }
    }

    fn next_append<'j>(
        &mut self,
        journal: &'j dyn Journal,
    ) -> Option<BoxFuture<'j, Result<Position, JournalError>>> {
        let (chunk, settled) = self.books.take()?;
        Some(journal.append(chunk, settled))
    }

    fn sink_ended(
        &mut self,
        ended: Result<Result<Delivered, SinkError>, tokio::task::JoinError>,
    ) -> Delivered {
        let failed = Delivered {
            confirmed: *self.confirmed.borrow(),
            ..Delivered::default()
        };
        match ended {
            Ok(Ok(delivered)) => delivered,
            Ok(Err(error)) => {
                self.fail(error.into());
                failed
            }
            Err(error) => {
                let error = std::io::Error::other(error);
                self.fail(
                    SinkError::Io {
                        context: "the sink's task".to_owned(),
                        error,
                    }
                    .into(),
                );
                failed
            }
        }
    }

    /// The sink has everything below `confirmed`.
    fn confirm(&mut self, confirmed: Position) {
        self.note(|books| books.confirm(confirmed));
        if self.survives {
            let confirmed = self.books.confirmed();
            self.journal.remember(SINK_CURSOR, confirmed.into());
        }
    }

    /// The journal's marks have moved, or it failed.
    fn durable(&mut self) {
        let durable = self.marks.borrow().durable;
        self.note(|books| books.durable(durable));
        if let Some(error) = self.journal.failure() {
            self.fail(error.into());
            self.stop.abort.cancel(); // its readers wait for what cannot be read
        }
    }

    /// Makes durable what was appended, and tells what is left for the next run.
    async fn finish_journal(&mut self) {
        if let Err(error) = self.journal.finish().await {
            self.fail(error.into());
        }
        self.durable();
        let records = self.books.kept_in_journal();
        if self.survives && records > 0 {
            tracing::info!(
                records,
                "unconfirmed, and in the journal: the next run delivers them"
            );
        }
    }

    /// Does a step of the books; a wrong account fails the run.
    fn note(&mut self, step: impl FnOnce(&mut Books) -> Result<(), RunError>) {
        if let Err(error) = step(&mut self.books) {
            self.fail(error);
        }
    }

    /// The first error ends the run: nothing more is read or accepted, but what is in the journal is
    /// still delivered and confirmed.
    fn fail(&mut self, error: RunError) {
        tracing::debug!(%error, "the run failed; draining");
        if self.input == Input::Open {
            self.input = Input::Ended;
        }
        self.stop.drain.cancel();
        self.error.get_or_insert(error);
    }

    /// From a source that cannot be replayed, what is unconfirmed at the end goes to the failover.
    async fn keep_the_rest(&mut self) -> Result<(), RunError> {
        let now = self.started.elapsed();
        loop {
            while let Some(done) = self.reorder.next() {
                // Any other error refuses the batch, and that is kept whole, below.
                if let Err(error @ RunError::Failover(_)) = self.books.accept(done, now).await {
                    return Err(error);
                }
            }
            match self.results.recv().await {
                Ok(done) => self.reorder.insert(done),
                Err(_closed) => break,
            }
        }
        self.books.keep_unconfirmed(self.journal).await
    }
}

/// Waits for a future that may not be there.
async fn wait<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
