//! The client: one session that dials (`url:`).
//!
//! Owns the I/O of it: attempts to connect, the line, timers, the pin in the journal. Decides nothing about delivery: it does what the session says and tells it what it
//! sees. Built by the driver table, run by the pipeline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::config::{self, ClientPlan};
use super::layers::Layers;
use super::line::{Leaving, Line, Moved};
use super::outbound::Control;
use super::protocol::close;
use super::push::Push;
use super::replies::{self, Reply};
use super::session::{Confirm, DialFailure, Failure, GivenUp, Order, Session, Step, Wait};
use super::words;
use super::{connect, credentials};
use crate::driver::{BoxFuture, on_one_line};
use crate::journal::{Cursor, Marks, Position, Read};
use crate::sink::{Delivered, Poisoned, Sink, SinkContext, SinkError};

mod place;
mod plan;

/// Buffered bytes from which a write does not wait for more.
const FLUSH_BYTES: usize = 16 * 1024;
/// Longest wait for Pongs that the kernel still holds when writing has failed.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Most that is read before a connection is given up, so that one who never stops talking can be (I4).
const CATCH_UP_READS_MAX: u32 = 64;

struct Client {
    plan: ClientPlan,
    tls: Option<Arc<rustls::ClientConfig>>,
    context: SinkContext,
    marks: watch::Receiver<Marks>,
    session: Session,
    /// With `ack: wirefall.v1`.
    push: Option<Push>,
    cursor: Cursor,
    start: Instant,
    line: Option<Line>,
    resent_told: bool,
}

/// What ended a wait.
enum Event {
    /// Time, or the journal, has moved on.
    Woken,
    Moved(Moved),
    Abort,
}

impl Sink for Client {
    fn run(self: Box<Self>) -> BoxFuture<'static, Result<Delivered, SinkError>> {
        Box::pin(self.carry())
    }
}

impl Client {
    /// Carries the journal until it is closed and all is confirmed.
    async fn carry(mut self) -> Result<Delivered, SinkError> {
        loop {
            let wait = match self.act().await? {
                Some(wait) => wait,
                None => return Ok(self.delivered()),
            };
            let disconnected = u64::from(!self.session.is_open());
            self.context.metrics.disconnected.set(disconnected);
            match self.wait(wait).await {
                Event::Woken => {}
                Event::Moved(moved) => self.moved(moved).await,
                Event::Abort => return Ok(self.delivered()),
            }
            self.publish();
        }
    }

    /// Does what the session says until it has to wait; `None` at the end.
    async fn act(&mut self) -> Result<Option<Wait>, SinkError> {
        let now = self.now();
        if let Some(line) = &mut self.line {
            let Leaving { moved, all } = line.leaving();
            self.session.leaving(now, moved, all);
            if self.session.is_overdue(now) {
                self.catch_up();
            }
        }
        self.live();
        loop {
            let marks = *self.marks.borrow_and_update();
            let room = self.line.as_ref().map_or(0, |line| line.room());
            match self.session.next(self.now(), room, marks) {
                Step::Send(order) => self.send(order),
                Step::Ping(payload) => self.control(Control::Ping, &payload),
                Step::Close => self.close(),
                Step::Wait(wait) => return Ok(Some(wait)),
                Step::Drop(why) => {
                    if why == GivenUp::NeverSubscribed {
                        self.part(close::SILENT, &why.to_string());
                    }
                    self.line = None;
                    self.tell_break(&why.to_string());
                }
                Step::Dial { reread } => {
                    if !self.dial(reread).await {
                        return Ok(None);
                    }
                }
                Step::Poison { position, breaks } => {
                    self.line = None;
                    if !self.poison(position, breaks).await {
                        return Ok(None);
                    }
                }
                Step::Done => return Ok(None),
                Step::Fail(failure) => return Err(self.failed(failure)),
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn delivered(&self) -> Delivered {
        let account = self.session.account();
        Delivered {
            confirmed: self.session.confirmed(),
            resent: account.resent,
            reconnects: account.reconnects,
        }
    }

    /// Lets the pipeline and the journal know what is confirmed (I1).
    fn publish(&mut self) {
        let confirmed = self.session.confirmed();
        let kept_from = self.push.as_ref().map_or(confirmed, Push::named);
        self.cursor.advance(kept_from);
        self.context.confirmed.send_if_modified(|told| {
            let more = confirmed > *told;
            *told = confirmed;
            more
        });
    }

    fn failed(&self, failure: Failure) -> SinkError {
        let address = &self.plan.endpoint.address;
        match failure {
            Failure::Refused(why) => SinkError::Environment {
                message: format!("{address}: {why}"),
            },
            Failure::NoPongs { wrong_pongs } => {
                let other = match self.plan.rules.confirm {
                    Confirm::Message => "", // it asks for Pongs at connect as well
                    _ => "use `ack: message` if it answers with messages of its own, or ",
                };
                SinkError::Peer {
                    message: format!(
                        "{address}: the peer does not answer a Ping with its payload \
                         ({wrong_pongs} other Pongs came), so nothing can be confirmed; \
                         {other}use `ack: written` to go without confirmation"
                    ),
                }
            }
            Failure::NoPlace => SinkError::Peer {
                message: format!(
                    "{address}: the server chose wirefall.v1 and does not say where to go on, as \
                     a receiver does first; see docs/protocol.md, or use another `ack`"
                ),
            },
        }
    }

    /// One attempt to connect. False when the run is aborted.
    async fn dial(&mut self, reread: bool) -> bool {
        if reread {
            let today = (self.context.reread)().and_then(|config| {
                let plan = config::check(config, &self.plan.facts).map_err(on_one_line)?;
                Ok(plan.endpoint)
            });
            credentials::renew(&mut self.plan.endpoint, &mut self.tls, today);
        }
        let mut layers = Layers::default();
        let attempt = connect::connect(&self.plan.endpoint, self.tls.as_ref(), &mut layers);
        let attempt = tokio::select! {
            attempt = attempt => attempt,
            () = self.context.stop.abort.cancelled() => return false,
        };
        let now = self.now();
        let position = self.session.confirmed();
        let line = attempt.and_then(|connected| {
            let subprotocol = connected.subprotocol.clone();
            let line = Line::new(connected, position).map_err(|error| DialFailure {
                message: format!("no random numbers from the system: {error}"),
                ..DialFailure::default()
            })?;
            Ok((line, subprotocol))
        });
        match line {
            Ok((line, subprotocol)) => {
                let subprotocol = subprotocol.map(|name| format!(" ({name})"));
                let subprotocol = subprotocol.unwrap_or_default();
                tracing::info!("connected to {}{subprotocol}", self.plan.endpoint.address);
                self.line = Some(line);
                self.session.connected(now);
                self.push.iter_mut().for_each(Push::connected);
                // What came along with the handshake's answer.
                self.take_in();
                if self.session.account().reconnects > 0 {
                    self.context.metrics.reconnects.add(1);
                }
            }
            Err(failure) => {
                let message = failure.message.clone();
                self.session.dial_failed(now, failure);
                if let Some(at) = self.session.dials_at() {
                    let wait = at.saturating_sub(now);
                    tracing::warn!(
                        "cannot connect to {}: {message}; again in {wait:.1?}",
                        self.plan.endpoint.address
                    );
                }
            }
        }
        true
    }

    /// Brings the record at `position` to the failover. False when the run ends instead.
    async fn poison(&mut self, position: Position, breaks: u32) -> bool {
        let Read::Chunk(chunk) = self.context.journal.read(position) else {
            unreachable!("the cursor pins everything unconfirmed");
        };
        let record = chunk.record(position.since(chunk.first) as usize);
        let reason = format!(
            "the connection to {} broke {breaks} times with this record alone in flight",
            self.plan.endpoint.address
        );
        tracing::warn!("record {}: {reason}; it goes to the failover", position.0);
        let (settled, answer) = oneshot::channel();
        let poisoned = Poisoned {
            position,
            record: Bytes::copy_from_slice(record),
            reason,
            settled,
        };
        let safe =
            async { self.context.poisoned.send(poisoned).await.is_ok() && answer.await.is_ok() };
        let safe = tokio::select! {
            safe = safe => safe,
            () = self.context.stop.abort.cancelled() => false,
        };
        if safe {
            self.session.settled(self.now());
            self.publish();
        }
        // Where nobody takes it, the run ends with the record unconfirmed: it is never dropped.
        safe
    }

    /// Appends what the session orders to the output buffer.
    fn send(&mut self, order: Order) {
        let order = self.bounded(order);
        let Read::Chunk(chunk) = self.context.journal.read(order.from) else {
            unreachable!("the session asks below the watermark, and the cursor pins the rest");
        };
        let piece = order.cut(&chunk);
        self.before(&chunk, &piece);
        let Some(line) = &mut self.line else {
            unreachable!("the session sends on a connection");
        };
        line.push(&chunk, &piece, &self.plan.framing);
        let resent = self.session.sent(self.start.elapsed(), &chunk, &piece);
        let metrics = &self.context.metrics;
        metrics.records_sent.add(piece.records(&chunk).len() as u64);
        metrics.bytes_sent.add(piece.wire(&chunk).len() as u64);
        if resent > 0 {
            metrics.records_resent.add(resent);
            if !std::mem::replace(&mut self.resent_told, true) {
                tracing::info!("sending again from record {}", order.from.0);
            }
        }
        self.after(&chunk, &piece);
    }

    fn control(&mut self, control: Control, payload: &[u8]) {
        if let Some(line) = &mut self.line {
            line.push_control(control, payload);
        }
    }

    /// Waits for the peer, for the kernel, for the journal, or for the time that the session named.
    async fn wait(&mut self, wait: Wait) -> Event {
        let until = wait.until.map(|until| self.start + until);
        let mut until = until.into_iter().chain(self.live_at()).min();
        let abort = self.context.stop.abort.clone();
        let Some(line) = &mut self.line else {
            return tokio::select! {
                () = sleep_until(until) => Event::Woken,
                changed = self.marks.changed(), if wait.records => journal_event(changed),
                () = abort.cancelled() => Event::Abort,
            };
        };
        // Behind our Close nothing more is to be said.
        let answering = !self.session.is_closing() && line.take_answers();
        let pending = line.pending();
        let mut write = pending > 0;
        if write && !wait.flush && !answering && pending < FLUSH_BYTES {
            // Coalesced, for `flush` at most; a line that was idle so long does not wait.
            let flush_at = line.wrote_at().map(|at| at + self.plan.flush);
            if let Some(flush_at) = flush_at.filter(|at| *at > Instant::now()) {
                write = false;
                until = Some(until.map_or(flush_at, |until| until.min(flush_at)));
            }
        }
        if write {
            self.mark();
        }
        let Some(line) = &mut self.line else {
            unreachable!("it was there");
        };
        tokio::select! {
            moved = line.moved(write) => Event::Moved(moved),
            () = sleep_until(until) => Event::Woken,
            changed = self.marks.changed(), if wait.records => journal_event(changed),
            () = abort.cancelled() => Event::Abort,
        }
    }

    /// Bytes went out, or came in, or one of the two failed.
    async fn moved(&mut self, moved: Moved) {
        match moved.wrote {
            Some(Ok(())) => {
                let now = self.now();
                let Some(line) = &self.line else { return };
                self.session
                    .written(now, line.written_to(), line.is_drained());
            }
            Some(Err(error)) => return self.write_failed(&error).await,
            None => {}
        }
        match moved.read {
            Some(Ok(())) => self.take_in(),
            Some(Err(error)) => {
                self.take_in();
                self.broken(&words::of_read(&error));
            }
            None => {}
        }
    }

    /// Takes what the kernel has: a process that was held up finds the answers there.
    fn catch_up(&mut self) {
        for _ in 0..CATCH_UP_READS_MAX {
            let Some(line) = &mut self.line else { return };
            match line.heard().now_or_never() {
                Some(Ok(())) => self.take_in(),
                Some(Err(_)) | None => return,
            }
        }
    }

    /// Tells the session what the peer said, in what was read so far.
    fn take_in(&mut self) {
        self.take_messages();
        self.settle_acks();
    }

    fn take_messages(&mut self) {
        while let Some(line) = &mut self.line {
            let now = self.start.elapsed();
            match line.next() {
                None => return,
                Some(Ok(Message::Pong(payload))) => self.session.pong(now, &payload),
                Some(Ok(Message::Text(text))) => self.reply(now, text.as_bytes()),
                Some(Ok(Message::Binary(bytes))) => self.reply(now, &bytes),
                Some(Ok(Message::Ping(_) | Message::Frame(_))) => self.session.heard(now),
                Some(Ok(Message::Close(close))) => {
                    if !self.session.is_closing() {
                        line.answer_close();
                    }
                    self.broken(&words::of_close(close.as_ref()));
                }
                Some(Err(error)) => {
                    line.complain(&error);
                    self.broken(&words::of_error(&error));
                }
            }
        }
    }

    fn reply(&mut self, now: Duration, message: &[u8]) {
        self.session.heard(now);
        match self.plan.rules.confirm {
            Confirm::Message => {}
            Confirm::Place => return self.hear(now, message),
            Confirm::Written | Confirm::Pong => return,
        }
        let journal = &self.context.journal;
        let in_flight = self.session.confirmed()..self.session.position();
        match replies::find(&self.plan.replies, message, &**journal, in_flight) {
            Reply::Nothing => {}
            Reply::Frames(frames) => self.session.replied(now, frames),
            Reply::Counted(frames) => self.session.counted(now, frames),
            Reply::Below(position) => self.session.acknowledged(now, position),
        }
    }

    /// Writing failed. What the peer said before is still in the kernel: a Pong there saves sending
    /// again what it confirms.
    async fn write_failed(&mut self, error: &std::io::Error) {
        let deadline = Instant::now() + LAST_WORDS;
        self.take_in();
        while let Some(line) = &mut self.line {
            match tokio::time::timeout_at(deadline, line.heard()).await {
                Ok(Ok(())) => self.take_in(),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        self.broken(&format!("writing failed: {error}"));
    }

    fn broken(&mut self, words: &str) {
        if self.line.take().is_none() {
            return;
        }
        let now = self.now();
        let ending = self.session.is_closing();
        self.session.broken(now);
        if !ending {
            self.tell_break(words);
        }
    }

    fn tell_break(&mut self, words: &str) {
        self.resent_told = false;
        let wait = self
            .session
            .dials_at()
            .map(|at| at.saturating_sub(self.now()));
        tracing::warn!(
            "connection to {} lost: {words}; confirmed below record {}, again in {:.1?}",
            self.plan.endpoint.address,
            self.session.confirmed().0,
            wait.unwrap_or_default(),
        );
    }
}

fn journal_event(changed: Result<(), watch::error::RecvError>) -> Event {
    match changed {
        Ok(()) => Event::Woken,
        // The journal is gone without having been closed: the pipeline was dropped.
        Err(_) => Event::Abort,
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
