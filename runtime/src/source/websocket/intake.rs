//! The intake: reads a subscription and gathers its records into batches.
//!
//! Owns the task that speaks to the server, so that it is answered, and told what is safe, while the
//! pipeline takes nothing. Never decides what is safe: the committer says it. Called by the source.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::messages::Framing;
use super::partition;
use super::trail::{Begin, READING, Trail};
use crate::record::{Batch, Column, Records};
use crate::sink::websocket::protocol::Hello;
use crate::sink::websocket::subscription::{Event, Subscription};
use crate::source::{BatchLimits, Oddities, SourceError};

/// What the reader gets: a batch, the end or an error, and what was met beside records so far.
pub(super) struct Taken {
    pub(super) batch: Result<Option<Batch>, SourceError>,
    pub(super) oddities: Oddities,
}

/// See the module.
pub(super) struct Intake {
    subscription: Subscription,
    framing: Framing,
    gathered: Gathered,
    trail: Trail,
    oddities: Oddities,
    /// No place before this position is of the numbering that the server has now.
    numbered_from: u64,
    /// A place before which all is safe was told to the server, at this position.
    told: Option<u64>,
    /// No place is known yet: a crash before the first commit must not begin anywhere else.
    begins: bool,
    /// Some connection answered.
    greeted: bool,
    limits: BatchLimits,
}

/// Records that wait for their batch.
struct Gathered {
    records: VecDeque<(Bytes, u64)>,
    bytes: usize,
    /// The position before the first of them.
    start: u64,
    /// The position after the last record that came.
    position: u64,
    /// Records before this position are safe already: passed over.
    pass_to: u64,
    /// When the first of them is to go on.
    due_at: Option<Instant>,
}

impl Gathered {
    fn push(&mut self, record: Bytes, limits: &BatchLimits) {
        self.position += 1;
        if self.position <= self.pass_to {
            return;
        }
        self.bytes += record.len();
        self.records.push_back((record, self.position));
        self.due_at
            .get_or_insert_with(|| Instant::now() + limits.wait);
    }

    fn is_full(&self, limits: &BatchLimits) -> bool {
        self.records.len() >= limits.records_max || self.bytes >= limits.bytes_max
    }

    fn is_due(&self, limits: &BatchLimits) -> bool {
        self.is_full(limits) || self.due_at.is_some_and(|due_at| due_at <= Instant::now())
    }

    /// A batch of the first of them; never empty where there is one.
    fn take(&mut self, limits: &BatchLimits) -> Option<Batch> {
        let mut payloads = Column::default();
        let mut positions = Vec::new();
        while positions.len() < limits.records_max
            && let Some((record, position)) = self.records.pop_front()
        {
            self.bytes -= record.len();
            payloads.push(&record);
            positions.push(position);
            if payloads.bytes.len() >= limits.bytes_max {
                break;
            }
        }
        // What is left waited as long as what went.
        self.due_at = self.due_at.filter(|_| !self.records.is_empty());
        let start = self.start;
        self.start = *positions.last()?;
        Some(Batch {
            number: 0,
            partition: partition(),
            start,
            positions,
            records: Records::of_payloads(payloads),
        })
    }
}

/// How the reading ends.
enum End {
    /// There is nothing more.
    Done,
    /// It cannot go on.
    Failed(SourceError),
}

impl Intake {
    /// An intake that begins as `begin` says.
    pub(super) fn new(
        subscription: Subscription,
        trail: Trail,
        begin: Begin,
        framing: Framing,
        limits: BatchLimits,
    ) -> Self {
        let oddities = Oddities {
            missed: begin.missing,
            ..Oddities::default()
        };
        Self {
            subscription,
            framing,
            gathered: Gathered {
                records: VecDeque::new(),
                bytes: 0,
                start: begin.position,
                position: begin.at,
                pass_to: begin.position,
                due_at: None,
            },
            trail,
            oddities,
            numbered_from: 0,
            told: None,
            begins: begin.place.is_none(),
            greeted: false,
            limits,
        }
    }

    /// Reads until the end, `closed`, or an error; then passes on what becomes safe until nobody says so
    /// any more.
    pub(super) async fn run(
        mut self,
        batches: mpsc::Sender<Taken>,
        closed: CancellationToken,
        mut settled: watch::Receiver<u64>,
        told: watch::Sender<u64>,
    ) {
        told.send_replace(READING);
        self.read(batches, &closed, &mut settled).await;
        // What was settled before is told now, and counts as told.
        told.send_replace(0);
        self.tell();
        told.send_replace(*settled.borrow());
        // Here and not before: what a server sends meanwhile stays with it.
        while settled.changed().await.is_ok() {
            let position = *settled.borrow_and_update();
            self.tell();
            told.send_replace(position);
        }
        self.subscription.close().await;
    }

    async fn read(
        &mut self,
        batches: mpsc::Sender<Taken>,
        closed: &CancellationToken,
        settled: &mut watch::Receiver<u64>,
    ) {
        let mut end = None;
        loop {
            let place = loop {
                tokio::select! {
                    // The pipeline is gone.
                    () = batches.closed() => return,
                    place = batches.reserve() => break place,
                    Ok(()) = settled.changed() => {
                        settled.borrow_and_update();
                        self.tell();
                    }
                }
            };
            let Ok(place) = place else { return };
            if end.is_none() {
                end = self.gather(&batches, closed, settled).await;
            }
            let taken = |batch, oddities| Taken { batch, oddities };
            let batch = match (self.gathered.take(&self.limits), end.take()) {
                (Some(batch), left) => {
                    end = left;
                    Ok(Some(batch))
                }
                (None, Some(End::Failed(error))) => Err(error),
                (None, _) => Ok(None),
            };
            let is_last = !matches!(batch, Ok(Some(_)));
            place.send(taken(batch, self.oddities));
            if is_last {
                return;
            }
        }
    }

    /// Takes what comes until there is a batch; tells where that was the end.
    async fn gather(
        &mut self,
        batches: &mpsc::Sender<Taken>,
        closed: &CancellationToken,
        settled: &mut watch::Receiver<u64>,
    ) -> Option<End> {
        while !self.gathered.is_due(&self.limits) {
            let event = match self.subscription.ready() {
                Some(event) => event,
                None => {
                    let due_at = self.gathered.due_at;
                    tokio::select! {
                        biased;
                        () = closed.cancelled() => return Some(End::Done),
                        () = batches.closed() => return Some(End::Done),
                        Ok(()) = settled.changed() => {
                            settled.borrow_and_update();
                            self.tell();
                            continue;
                        }
                        event = self.subscription.next() => event,
                        () = until(due_at) => return None,
                    }
                }
            };
            if let Some(end) = self.take(event) {
                return Some(end);
            }
        }
        // Somebody who sends without a pause is not heard to the end.
        closed.is_cancelled().then_some(End::Done)
    }

    fn take(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Frame { payload, .. } => {
                let split = self.framing.split(&payload);
                self.oddities.empty_lines += split.empty_lines;
                self.oddities.unsplit_messages += u64::from(split.is_odd);
                if split.is_odd && self.oddities.unsplit_messages == 1 {
                    tracing::warn!(
                        "a message of the source is not what `framing` says, and is taken as one record; further ones are counted"
                    );
                }
                for record in split.records {
                    self.gathered.push(record, &self.limits);
                }
            }
            Event::Marked => return self.come_to_place(false).err().map(End::Failed),
            Event::Hello(hello) => return self.greet(&hello).err().map(End::Failed),
            Event::Gap(lost) => return self.lose(lost).err().map(End::Failed),
            Event::Plain => self.connected_again(),
            Event::Broken { reason, wait } => tracing::warn!(
                "the source's connection broke: {reason}; trying again in {:.1} s",
                wait.as_secs_f64()
            ),
            // What is safe was told as it became so.
            Event::Parting => {}
            Event::End => return Some(End::Done),
            Event::Refused(message) => {
                return Some(End::Failed(match self.greeted {
                    false => SourceError::Environment { message },
                    true => SourceError::Peer { message },
                }));
            }
        }
        None
    }

    fn connected_again(&mut self) {
        match self.greeted {
            true => {
                tracing::info!("the source is connected again; what came in between was not seen")
            }
            false => {
                tracing::info!("the source's server speaks no wirefall.v1: it is read as it is")
            }
        }
        self.greeted = true;
    }

    fn greet(&mut self, hello: &Hello) -> Result<(), SourceError> {
        self.greeted = true;
        tracing::info!(
            stream = hello.stream,
            from = hello.from,
            "the source is connected"
        );
        match hello.resumed {
            true => self.come_to_place(false),
            false => self.lose(hello.lost),
        }
    }

    /// Records are missing before what comes next: `lost` of them, where that is known.
    fn lose(&mut self, lost: Option<u64>) -> Result<(), SourceError> {
        let gathered = &mut self.gathered;
        match lost {
            Some(lost) => {
                // Of what the server has no more, some may be here already.
                let here = gathered.pass_to.saturating_sub(gathered.position);
                gathered.position += lost;
                let missed = lost.saturating_sub(here);
                self.oddities.missed += missed;
                if missed > 0 {
                    tracing::warn!(records = missed, "the source's server had them no more");
                }
            }
            None => {
                self.oddities.gaps += 1;
                tracing::warn!(
                    "the source's server cannot go on where we were: records may be missing, how many it does not know"
                );
                // Nothing of what comes was counted before.
                gathered.position = gathered.position.max(gathered.pass_to);
            }
        }
        self.come_to_place(lost.is_none())
    }

    /// Our position is at the server's place now; `anew`: no earlier place leads there.
    fn come_to_place(&mut self, anew: bool) -> Result<(), SourceError> {
        let at = self.gathered.position;
        let Some(place) = self.subscription.place().cloned() else {
            return Ok(());
        };
        if anew {
            self.numbered_from = at;
        }
        if anew || std::mem::take(&mut self.begins) {
            return self.trail.anchor(at, place);
        }
        self.trail.mark(at, place);
        Ok(())
    }

    /// Tells the server what is safe by now.
    fn tell(&mut self) {
        if let Some((at, place)) = self.trail.settled(self.numbered_from)
            && self.told.is_none_or(|told| told < at)
        {
            self.told = Some(at);
            self.subscription.ack(place);
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
