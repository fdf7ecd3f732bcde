//! The books of a run: what became of each batch, and what that settles.
//!
//! Owns the framer, the ledger, the checkpoint, the failover and the account. Decides nothing about
//! when: the loop in `run` calls it. The order inside [`Books::accept`] is what I1 rests on: failed
//! records are safe in the failover before the rest of their batch gets a position.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::account::Account;
use super::error::RunError;
use super::tolerance::Window;
use super::workers::{Done, Failed, FailedAt};
use crate::ack::{Ledger, distinct};
use crate::checkpoint::{Checkpoint, Delta};
use crate::failover::{self, Failover};
use crate::journal::{Chunk, Cursor, Journal, Position, Read};
use crate::plugin::{ChainPlan, OnError};
use crate::record::Batch;
use crate::sink::framing::{Framer, Framing};
use crate::sink::{Delivery, Poisoned};
use crate::source::Committer;

/// An open failover, and whether it keeps what it is given.
pub(super) struct OpenFailover {
    pub(super) failover: Box<dyn Failover>,
    pub(super) drops: bool,
}

/// What the books of a run begin with.
pub(super) struct Beginning {
    pub(super) delivery: Delivery,
    /// What is durable in the journal outlives a crash.
    pub(super) survives: bool,
    /// Where the sink begins; what lies before `head` is carried in from an earlier run.
    pub(super) from: Position,
    /// Where the journal ends.
    pub(super) head: Position,
    /// Where the source begins.
    pub(super) start: Checkpoint,
    pub(super) committer: Box<dyn Committer>,
    pub(super) failover: Option<OpenFailover>,
    /// What becomes of a record that cannot be framed.
    pub(super) unframed: OnError,
    pub(super) chain: Arc<ChainPlan>,
    pub(super) framing: Framing,
    pub(super) kept: Option<Cursor>,
}

pub(super) struct Books {
    delivery: Delivery,
    survives: bool,
    chain: Arc<ChainPlan>,
    windows: Vec<Option<Window>>,
    failover: Option<OpenFailover>,
    unframed: OnError,
    pub(super) framer: Framer,
    ledger: Ledger,
    /// Batches whose last output is not appended yet, each with the position that ends it.
    unappended: VecDeque<(Position, Delta)>,
    /// The chunk that waits for room in the journal.
    appending: Option<Chunk>,
    /// Batches that ended the run: a record failed where the configuration says stop.
    refused: Vec<Batch>,
    checkpoint: Checkpoint,
    committer: Box<dyn Committer>,
    uncommitted: bool,
    account: Account,
    /// Keeps the unconfirmed in the journal when the sink is gone: for the next run, or for the failover
    /// where the source cannot be replayed.
    kept: Option<Cursor>,
    /// Inputs whose outcome is in the account or the ledger.
    accepted: u64,
    /// What is unconfirmed was given to the failover.
    kept_the_rest: bool,
}

impl Books {
    pub(super) fn new(beginning: Beginning) -> Self {
        let Beginning {
            delivery,
            survives,
            from,
            head,
            start,
            committer,
            failover,
            unframed,
            chain,
            framing,
            kept,
        } = beginning;
        Self {
            delivery,
            survives,
            windows: chain.tolerance.iter().map(|t| t.map(Window::new)).collect(),
            chain,
            failover,
            unframed,
            framer: Framer::new(framing, head),
            ledger: Ledger::carried_in(from, head),
            unappended: VecDeque::new(),
            appending: None,
            refused: Vec::new(),
            checkpoint: start,
            committer,
            uncommitted: false,
            account: Account {
                carried_in: head.since(from),
                publishes: delivery == Delivery::Published,
                ..Account::default()
            },
            kept,
            accepted: 0,
            kept_the_rest: false,
        }
    }

    /// Takes the next batch in order: settles its failures and frames its outputs. Where a record of it
    /// ends the run, so that the next run begins at that record, what comes before it is taken.
    pub(super) async fn accept(&mut self, mut done: Done, now: Duration) -> Result<(), RunError> {
        let Some((input, error)) = self.verdict(&done) else {
            return self.take_in(done, now).await;
        };
        let refused = done.split_off(input);
        self.refused.push(refused);
        self.take_in(done, now).await?;
        Err(error)
    }

    /// Settles the failures of a batch and frames its outputs.
    async fn take_in(&mut self, done: Done, now: Duration) -> Result<(), RunError> {
        if let Err(error) = self.fail_over(&done).await {
            self.refused.push(done.batch); // and not its permit: the reader must come to its end
            return Err(error);
        }
        let Done {
            batch,
            outputs,
            failures,
            mut passed,
            _permit,
        } = done;
        let inputs = batch.records.len() as u64;
        let emitting = distinct(&outputs.sources);
        passed.sort_unstable_by_key(|passed| passed.input);
        passed.dedup_by_key(|passed| passed.input);
        passed.retain(|passed| outputs.sources.binary_search(&passed.input).is_ok());
        self.account.passed += passed.len() as u64;
        self.account.filtered += inputs - emitting - failures.len() as u64;
        self.accepted += inputs;
        let first = self.framer.next();
        self.framer.push(&batch, &outputs, now);
        if self.survives {
            // A frame of two batches would be durable without the step that completes the second.
            self.framer.close();
        }
        let delta = Delta {
            partition: batch.partition.clone(),
            from: batch.start,
            to: batch.end(),
        };
        self.unappended
            .push_back((self.framer.next(), delta.clone()));
        self.ledger
            .appended(delta, batch.positions, first, outputs.sources);
        Ok(())
    }

    /// The first input of a batch that ends the run, if one does.
    fn verdict(&mut self, done: &Done) -> Option<(u32, RunError)> {
        let all = done.failures.iter().chain(&done.passed);
        if all.clone().next().is_none() && self.windows.iter().all(Option::is_none) {
            return None;
        }
        let records = done.batch.records.len() as u64;
        let mut ends: Vec<(u32, RunError)> = Vec::new();
        for (stage, window) in self.windows.iter_mut().enumerate() {
            let Some(window) = window else { continue };
            let of_stage = |failed: &&Failed| failed.at == FailedAt::Plugin(stage);
            let mut failed: Vec<&Failed> = all.clone().filter(of_stage).collect();
            failed.sort_unstable_by_key(|failed| failed.input);
            let inputs = failed.iter().map(|failed| failed.input);
            if let Some(input) = window.exceeded(records, inputs) {
                let reason = failed.iter().find(|failed| failed.input == input);
                let tolerance = window.tolerance();
                let error = RunError::Intolerable {
                    plugin: self.chain.plugins[stage].name.clone(),
                    failures_max: tolerance.failures_max,
                    window: tolerance.window,
                    reason: reason.map_or_else(String::new, |failed| failed.reason.clone()),
                };
                ends.push((input, error));
            }
        }
        let stopping = |failed: &&Failed| self.policy(failed.at) == OnError::Stop;
        if let Some(failed) = done.failures.iter().find(stopping) {
            ends.push((failed.input, self.rejected(&done.batch, failed)));
        }
        ends.into_iter().min_by_key(|(input, _)| *input)
    }

    /// What a failure at `at` costs.
    fn policy(&self, at: FailedAt) -> OnError {
        match at {
            FailedAt::Plugin(stage) => self.chain.on_error[stage],
            FailedAt::Framing => self.unframed,
        }
    }

    fn rejected(&self, batch: &Batch, failed: &Failed) -> RunError {
        let place = format!(
            "record at {} position {}",
            batch.partition.name(),
            batch.position_of(failed.input as usize)
        );
        let record = match failed.at {
            FailedAt::Plugin(stage) => {
                let id = &self.chain.plugins[stage];
                format!("plugin {} {} ({}), {place}", id.name, id.version, id.digest)
            }
            FailedAt::Framing => format!("framing, {place}"),
        };
        RunError::Rejected {
            record,
            reason: failed.reason.clone(),
            help: match (failed.at, &self.failover) {
                (FailedAt::Framing, _) => "add a `failover` to go on past such records",
                (FailedAt::Plugin(_), Some(_)) => {
                    "say `on_error: failover`, `drop` or `pass` to go on past such records"
                }
                (FailedAt::Plugin(_), None) => {
                    "add a `failover`, or say `on_error: drop` or `pass`, to go on past such records"
                }
            },
        }
    }

    /// Makes the failed records of a batch safe.
    async fn fail_over(&mut self, done: &Done) -> Result<(), RunError> {
        let when = SystemTime::now();
        let mut records = Vec::new();
        let mut dropped = 0;
        for failed in &done.failures {
            if self.policy(failed.at) == OnError::Drop {
                dropped += 1;
                continue;
            }
            let (stage, plugin) = match failed.at {
                FailedAt::Plugin(stage) => {
                    let id = &self.chain.plugins[stage];
                    ("format", Some((id.name.as_str(), id.digest.as_str())))
                }
                FailedAt::Framing => ("frame", None),
            };
            records.push(failover::Failed {
                when,
                stage,
                plugin,
                partition: done.batch.partition.name(),
                position: done.batch.position_of(failed.input as usize),
                reason: &failed.reason,
                record: done.batch.records.payloads.get(failed.input as usize),
            });
        }
        let failed = records.len() as u64;
        if failed > 0 {
            let open = self.failover.as_mut();
            let open = open.expect("check allows `failover` only where there is one");
            open.failover.write(&records).await?;
        }
        for failed in &done.failures {
            let position = done.batch.position_of(failed.input as usize);
            let partition = &done.batch.partition;
            self.committer.failed(partition, position, &failed.reason);
        }
        let no_text = done.failures.iter().filter(|failed| failed.invalid_utf8);
        self.account.invalid_utf8 += no_text.count() as u64;
        self.account.dropped += dropped;
        self.count_failed_over(failed);
        Ok(())
    }

    /// A record that no connection survives: safe in the failover before the sink goes on.
    pub(super) async fn poisoned(&mut self, poisoned: Poisoned) -> Result<(), RunError> {
        let Poisoned {
            position,
            record,
            reason,
            settled,
        } = poisoned;
        let origin = self.ledger.origin(position);
        let (partition, place) = origin.map_or(unknown(position), |(p, place)| (p.name(), place));
        let Some(open) = &mut self.failover else {
            return Err(RunError::Rejected {
                record: format!("record at {partition} position {place}"),
                reason,
                help: "add a `failover` to go on past records that the peer does not survive",
            });
        };
        let failed = failover::Failed {
            when: SystemTime::now(),
            stage: "deliver",
            plugin: None,
            partition,
            position: place,
            reason: &reason,
            record: &record,
        };
        open.failover.write(&[failed]).await?;
        if let Some((partition, place)) = origin {
            self.committer.failed(partition, place, &reason);
        }
        self.ledger.poisoned(position);
        let _ = settled.send(()); // a sink that is gone needs no answer
        Ok(())
    }

    /// Closed frames and the source ranges that they complete, if there are any.
    pub(super) fn take(&mut self) -> Option<(Chunk, Vec<Delta>)> {
        let chunk = self.framer.take();
        let taken_below = self.framer.taken_below();
        let complete = self
            .unappended
            .partition_point(|(end, _)| *end <= taken_below);
        let mut settled: Vec<Delta> = self.unappended.drain(..complete).map(|(_, d)| d).collect();
        settled.extend(self.part_below(taken_below));
        if chunk.is_none() && settled.is_empty() {
            return None;
        }
        self.appending = chunk.clone();
        Some((chunk.unwrap_or_default(), settled))
    }

    /// Of a batch that the journal takes in several chunks, the inputs that are complete below a
    /// position.
    fn part_below(&mut self, below: Position) -> Option<Delta> {
        let (_, rest) = self.unappended.front_mut().filter(|_| self.survives)?;
        let (_, place) = self.ledger.origin(below)?;
        let part = Delta {
            to: place,
            ..rest.clone()
        };
        (rest.from < place && place < rest.to).then(|| {
            rest.from = place;
            part
        })
    }

    /// The journal has taken the chunk; all below `durable` is durable in it.
    pub(super) fn appended(&mut self, durable: Position) -> Result<(), RunError> {
        self.appending = None;
        self.durable(durable)
    }

    /// Everything below `durable` is as durable as the journal makes it.
    pub(super) fn durable(&mut self, durable: Position) -> Result<(), RunError> {
        match self.delivery {
            Delivery::Published => self.confirm(durable),
            Delivery::Confirmed if self.survives => {
                let deltas = self.ledger.durable(durable);
                self.settle(&deltas)?;
                self.confirm(Position::default())
            }
            // Batches without outputs may be settled although nothing was confirmed since.
            Delivery::Confirmed => self.confirm(Position::default()),
        }
    }

    /// Everything below `confirmed` is: acknowledges the batches that this completes.
    pub(super) fn confirm(&mut self, confirmed: Position) -> Result<(), RunError> {
        let settled = self.ledger.confirm(confirmed);
        if let Some(kept) = &mut self.kept {
            kept.advance(self.ledger.confirmed());
        }
        self.account.settle(self.delivery, settled.delivered);
        self.count_failed_over(settled.poisoned);
        self.settle(&settled.deltas)
    }

    fn settle(&mut self, deltas: &[Delta]) -> Result<(), RunError> {
        for delta in deltas {
            self.checkpoint.settle(delta)?; // I1: the only place where a position moves
            self.uncommitted = true;
        }
        Ok(())
    }

    /// Everything below is confirmed.
    pub(super) fn confirmed(&self) -> Position {
        self.ledger.confirmed()
    }

    fn count_failed_over(&mut self, inputs: u64) {
        match self.failover.as_ref().is_some_and(|open| open.drops) {
            true => self.account.dropped += inputs,
            false => self.account.failed_over += inputs,
        }
    }

    /// Where inputs went so far; `read` and `unconfirmed` are known at the end only.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// Whether something was settled since the last commit.
    pub(super) fn has_news(&self) -> bool {
        self.uncommitted
    }

    /// Whether there is something to commit that somebody waits for.
    pub(super) fn is_awaited(&self) -> bool {
        self.uncommitted && self.committer.is_awaited()
    }

    /// Commits what is settled.
    pub(super) async fn commit(&mut self, journal: &dyn Journal) -> Result<(), RunError> {
        if self.uncommitted {
            self.committer.forgotten(&journal.forgotten());
            self.committer.commit(&self.checkpoint).await?;
            self.uncommitted = false;
        }
        Ok(())
    }

    /// Gives everything that is unconfirmed, and that no journal keeps for the next run, to the failover,
    /// for sources that cannot be replayed.
    pub(super) async fn keep_unconfirmed(&mut self, journal: &dyn Journal) -> Result<(), RunError> {
        self.framer.close();
        let mut chunks = Vec::new();
        if self.survives {
            let lost = journal.undurable().into_iter();
            chunks.extend(lost.map(|chunk| (chunk.first, chunk)));
        } else if self.delivery == Delivery::Confirmed {
            let mut at = self.ledger.confirmed();
            loop {
                match journal.read(at) {
                    Read::Wait => break,
                    Read::Lost { .. } => unreachable!("`kept` pins what is unconfirmed"),
                    Read::Chunk(chunk) => {
                        chunks.push((at, chunk.clone()));
                        at = chunk.end();
                    }
                }
            }
        }
        let mut head = journal.marks().borrow().head;
        for mut chunk in self.appending.take().into_iter().chain(self.framer.take()) {
            chunk.first = head;
            head = chunk.end();
            chunks.push((chunk.first, chunk));
        }
        let records: Vec<(Position, Bytes)> = chunks
            .iter()
            .flat_map(|(from, chunk)| {
                let indices = from.since(chunk.first) as usize..chunk.records.len();
                indices.map(|index| {
                    let (start, end) = chunk.records[index];
                    let position = chunk.first.plus(index as u64);
                    (position, chunk.wire.slice(start as usize..end as usize))
                })
            })
            .collect();
        self.keep(&records).await
    }

    async fn keep(&mut self, records: &[(Position, Bytes)]) -> Result<(), RunError> {
        let reason = "unconfirmed when the run ended, and the source cannot be read again";
        let when = SystemTime::now();
        let mut failed: Vec<failover::Failed<'_>> = records
            .iter()
            .map(|(position, record)| {
                let origin = self.ledger.origin(*position);
                let (partition, position) =
                    origin.map_or(unknown(*position), |(p, place)| (p.name(), place));
                let stage = "drain";
                failover::Failed {
                    when,
                    stage,
                    plugin: None,
                    partition,
                    position,
                    reason,
                    record,
                }
            })
            .collect();
        for batch in &self.refused {
            failed.extend(
                batch
                    .records
                    .payloads
                    .iter()
                    .enumerate()
                    .map(|(index, record)| failover::Failed {
                        when,
                        stage: "drain",
                        plugin: None,
                        partition: batch.partition.name(),
                        position: batch.position_of(index),
                        reason,
                        record,
                    }),
            );
        }
        let Some(open) = &mut self.failover else {
            return Ok(());
        };
        if !failed.is_empty() {
            open.failover.write(&failed).await?;
        }
        self.kept_the_rest = true;
        Ok(())
    }

    /// Unconfirmed inputs that the journal keeps for the next run.
    pub(super) fn kept_in_journal(&self) -> u64 {
        self.ledger.open().kept
    }

    /// The account, once nothing moves any more. `read` is what the source gave.
    pub(super) fn close(mut self, read: u64) -> Account {
        let open = self.ledger.open();
        self.account.settle(self.delivery, open.delivered);
        self.count_failed_over(open.poisoned);
        let left = open.unconfirmed - open.kept + (read - self.accepted);
        self.account.unconfirmed = open.kept;
        match self.kept_the_rest {
            true => self.count_failed_over(left),
            false => self.account.unconfirmed += left,
        }
        self.account.read = read;
        debug_assert!(self.account.balances(), "I2: {:?}", self.account);
        self.account
    }
}

/// What names a record whose origin nobody knows any more: its place in the journal.
fn unknown(position: Position) -> (&'static str, u64) {
    ("journal", position.0)
}
