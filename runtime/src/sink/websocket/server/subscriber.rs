//! One subscriber: a cursor over the journal and the socket that it feeds.
//!
//! Owns the loop of a connection and its end. What the kernel does not take stays in the journal: there
//! is no queue. The session says what is next, `v1` what is told beside the records, `socket` writes.
//! `outgoing` is a turn of writing. Called by `http`.

use std::future::pending;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use self::outgoing::Wrote;
use super::Hub;
use super::names::Foreign;
use super::release::Signal;
use super::socket::Socket;
use super::v1::V1;
use super::wire::Wire;
use crate::credentials::Denial;
use crate::driver::BoxFuture;
use crate::journal::Position;
use crate::port::gate::{Conduct, Ended, Lease, Over};
use crate::sink::websocket::protocol::{REQUEST_BYTES_MAX, Reason, Said, Subscribe, Wrong, close};
use crate::sink::websocket::session::{Rules, Session};

mod outgoing;

/// Longest wait for the answer to our Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest sleep where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);
/// Longest message that is taken from a subscriber who has nothing to say.
const PLAIN_BYTES_MAX: usize = 16 * 1024;

/// Which subprotocol a subscriber chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// Frames of records, from this position on, and nothing else.
    Plain(Position),
    /// `wirefall.v1`.
    V1,
}

/// How a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The subscriber closed, or broke off.
    Left,
    /// It has everything, and nothing more comes.
    Complete,
    /// The journal went on without it.
    FellBehind { lost: u64 },
    /// It said something wrong, or nothing.
    Wrong,
    /// Another session took its name.
    Taken,
    /// Its name could not be written down.
    Unnoted,
    /// Its credential is good no more, is used too much, or is not that of the name.
    Unleased,
    /// It answered no Ping, or took nothing for too long.
    Dead,
    /// The run was aborted.
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// `subscribe` is awaited until the deadline.
    Greeting { until: Instant },
    /// The session says what goes out.
    Streaming,
    /// Our Close is queued or out; its answer is awaited until the deadline.
    Closing { until: Instant, end: End },
    /// Both have closed; what is queued goes out until the deadline.
    Closed { until: Instant, end: End },
}

/// Serves a subscriber until it leaves, falls behind, or the run ends.
pub(super) async fn run(
    hub: &Hub,
    peer: SocketAddr,
    wire: Wire,
    read_ahead: Bytes,
    spoken: Spoken,
    lease: Lease,
) {
    let metrics = &hub.context.metrics;
    metrics.subscribers.add(1);
    tracing::debug!(%peer, ?spoken, "subscribed");
    let mut subscriber = Subscriber::new(hub, peer, wire, spoken, lease);
    subscriber.socket.inbound.feed(&read_ahead);
    // A part of the buffer that the request was read into, and all of it is held.
    drop(read_ahead);
    subscriber.hear();
    let end = subscriber.serve().await;
    if let Some(held) = subscriber.v1.as_ref().and_then(V1::held) {
        hub.names.leave(held);
    }
    metrics.subscribers.sub(1);
    if let Stage::Closed { until, .. } = subscriber.stage {
        let parted = timeout_at(until, subscriber.socket.part());
        // However it ends, it has ended.
        let _ = hub.context.stop.abort.run_until_cancelled(parted).await;
    }
    let skipped = subscriber.skipped;
    match end {
        End::FellBehind { lost } => {
            tracing::warn!(%peer, lost, "a subscriber fell behind the journal: disconnected");
        }
        End::Dead if hub.gate.is_news_of(Conduct::Silence, peer.ip()) => {
            tracing::info!(%peer, "a subscriber answers no more: disconnected (further ones of this address are not told for a minute)");
        }
        End::Taken => tracing::info!(%peer, "another session took a subscriber's name"),
        end => tracing::debug!(%peer, ?end, "a subscriber left"),
    }
    if skipped > 0 {
        tracing::info!(%peer, records = skipped, "a subscriber had skipped records");
    }
}

/// A wait for the journal to keep a name.
struct Noting<'a> {
    kept: BoxFuture<'a, ()>,
    until: Instant,
    /// What was to go out before `hello`, of which a part may be out.
    rest_bytes: usize,
}

struct Subscriber<'a> {
    hub: &'a Hub,
    peer: SocketAddr,
    socket: Socket,
    signal: watch::Receiver<Signal>,
    session: Session,
    v1: Option<V1>,
    lease: Lease,
    /// Cancelled when another session takes its name; `None` where it has none.
    taken: Option<CancellationToken>,
    started: Instant,
    stage: Stage,
    /// When the session is to be asked again although nothing happens.
    wake: Option<Duration>,
    /// Its name may be new, and has to be written down: until then nothing goes out, `hello` neither. The
    /// next process might not know it, and what was published since would be missing.
    noting: Option<Noting<'a>>,
    /// Records that it skipped.
    skipped: u64,
}

impl<'a> Subscriber<'a> {
    fn new(hub: &'a Hub, peer: SocketAddr, wire: Wire, spoken: Spoken, lease: Lease) -> Self {
        let started = Instant::now();
        let (v1, stage, from, message_bytes_max) = match spoken {
            Spoken::Plain(from) => (None, Stage::Streaming, from, PLAIN_BYTES_MAX),
            Spoken::V1 => {
                let until = started + hub.plan.timing.handshake_timeout;
                let greeting = Stage::Greeting { until };
                let v1 = Some(V1::new(hub));
                (v1, greeting, Position::default(), REQUEST_BYTES_MAX)
            }
        };
        Self {
            signal: hub.released.watch(),
            session: session(hub, from, Duration::ZERO),
            hub,
            peer,
            socket: Socket::new(wire, message_bytes_max),
            v1,
            lease,
            taken: None,
            started,
            stage,
            wake: None,
            noting: None,
            skipped: 0,
        }
    }

    async fn serve(&mut self) -> End {
        let hub = self.hub;
        let mut alarm = pin!(sleep_until(self.started + IDLE));
        loop {
            if self.noting.is_none() || self.stage != Stage::Streaming {
                match self.write() {
                    ControlFlow::Break(end) => return end,
                    ControlFlow::Continue(Wrote::Turn) => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    ControlFlow::Continue(Wrote::All | Wrote::Blocked) => (),
                }
            } else {
                // Nothing is written, so who can write is not to be told so over and over.
                self.socket.blocked = false;
            }
            // Only brought forward here, and put off when it rings: to re-arm a timer for every write
            // would cost more than the write.
            let deadline = self.deadline();
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            let blocked = self.socket.blocked;
            let taken = self.taken.as_ref();
            let taken = taken.filter(|_| self.stage == Stage::Streaming);
            let taken = async {
                match taken {
                    Some(taken) => taken.cancelled().await,
                    None => pending().await,
                }
            };
            let noted = async {
                match &mut self.noting {
                    Some(noting) => (&mut noting.kept).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = noted => self.noting = None,
                ready = self.socket.ready() => match ready {
                    Ok(true) => match self.socket.read() {
                        Ok(true) => self.hear(),
                        Ok(false) => (),
                        Err(_) => return self.broken(),
                    },
                    Ok(false) => (),
                    Err(_) => return self.broken(),
                },
                // A stalled subscriber is not woken by what it cannot take.
                _ = self.signal.changed(), if !blocked => (),
                () = hub.context.stop.abort.cancelled(), if blocked => return End::Aborted,
                () = taken => self.taken(),
                ended = self.lease.ended() => self.unleased(&ended),
                () = &mut alarm => {
                    let deadline = self.deadline();
                    if deadline > Instant::now() {
                        alarm.as_mut().reset(deadline);
                        continue;
                    }
                    match self.stage {
                        Stage::Closing { end, .. } | Stage::Closed { end, .. } => return end,
                        Stage::Greeting { .. } => self.silent(),
                        Stage::Streaming if self.noting.is_some() => self.unnoted(),
                        Stage::Streaming => (),
                    }
                    alarm.as_mut().reset(self.deadline().max(Instant::now()));
                }
            }
            if self.signal.borrow().aborted {
                return End::Aborted;
            }
        }
    }

    /// The end that a broken connection means here.
    fn broken(&self) -> End {
        match self.stage {
            Stage::Greeting { .. } | Stage::Streaming => End::Left,
            Stage::Closing { end, .. } | Stage::Closed { end, .. } => end,
        }
    }

    fn deadline(&self) -> Instant {
        match self.stage {
            Stage::Greeting { until }
            | Stage::Closing { until, .. }
            | Stage::Closed { until, .. } => until,
            Stage::Streaming if let Some(noting) = &self.noting => noting.until,
            Stage::Streaming => {
                let heartbeat = self.v1.as_ref().filter(|_| !self.socket.blocked);
                let heartbeat = heartbeat.map(V1::heartbeat_at);
                let next = self.wake.into_iter().chain(heartbeat).min();
                next.map_or_else(|| Instant::now() + IDLE, |next| self.started + next)
            }
        }
    }

    /// Something was read.
    fn hear(&mut self) {
        self.session.heard(self.started.elapsed());
        self.digest();
    }

    /// Takes what was said. Pings are answered, violations closed upon; messages mean something only
    /// where `wirefall.v1` is spoken.
    fn digest(&mut self) {
        self.take_messages();
        let sent = self.session.position();
        if let Some(v1) = &mut self.v1
            && let Err(wrong) = v1.settle_ack(self.hub, sent)
            && self.stage == Stage::Streaming
        {
            self.wrong(&wrong);
        }
    }

    fn take_messages(&mut self) {
        if matches!(self.stage, Stage::Closed { .. }) {
            return;
        }
        while let Some(said) = self.socket.next() {
            let payload = match said {
                Ok(Message::Text(text)) => text.into(),
                Ok(Message::Binary(bytes)) => bytes,
                Ok(_) => continue,
                Err(error) => {
                    let was_open = matches!(self.stage, Stage::Greeting { .. } | Stage::Streaming);
                    if was_open && !matches!(error, Error::ConnectionClosed) {
                        self.note_breach(&error.to_string());
                    }
                    self.socket.inbound.complain(&error);
                    let until = Instant::now() + CLOSE_TIMEOUT;
                    let end = self.broken();
                    self.stage = Stage::Closed { until, end };
                    return;
                }
            };
            let Some(v1) = &mut self.v1 else {
                continue;
            };
            let open = matches!(self.stage, Stage::Greeting { .. } | Stage::Streaming);
            match v1.hear(&payload) {
                // An ack counts until the answer to our Close.
                Ok(Said::Ack) => (),
                Ok(Said::Subscribe(subscribe)) if open => self.begin(subscribe),
                Err(wrong) if open => self.wrong(&wrong),
                Ok(Said::Subscribe(_)) | Err(_) => (),
            }
        }
    }

    /// Answers `subscribe`.
    fn begin(&mut self, subscribe: Subscribe) {
        let now = self.started.elapsed();
        let v1 = self.v1.as_mut().expect("only v1 has messages");
        let (who, rest) = (self.lease.credential(), self.socket.rest());
        let rest_bytes = rest.len();
        let from = match v1.begin(now, self.hub, who, subscribe, rest) {
            Ok(from) => from,
            Err(Foreign { owner }) => {
                tracing::debug!(peer = %self.peer, ?who, ?owner, "a name is another credential's");
                let reason = self.hub.gate.refuse_name(self.peer.ip());
                return self.close(close::FORBIDDEN, &reason, End::Unleased);
            }
        };
        self.taken = v1.held().map(|held| held.taken.clone());
        self.session = session(self.hub, from, now);
        self.stage = Stage::Streaming;
        self.noting = v1.held().map(|held| Noting {
            kept: self.hub.names.kept(held),
            until: Instant::now() + self.hub.plan.timing.handshake_timeout,
            rest_bytes,
        });
    }

    /// Counts that the subscriber broke the WebSocket protocol or ours, and logs the first of an address in
    /// a while.
    fn note_breach(&self, how: &str) {
        self.hub.context.metrics.breaches.add(1);
        let peer = self.peer;
        match self.hub.gate.is_news_of(Conduct::Breach, peer.ip()) {
            true => {
                tracing::warn!(%peer, "a subscriber broke the protocol: {how} (further ones of this address are counted for a minute)")
            }
            false => tracing::debug!(%peer, "a subscriber broke the protocol: {how}"),
        }
    }

    fn wrong(&mut self, wrong: &Wrong) {
        self.note_breach(&wrong.to_string());
        self.close(close::WRONG, &wrong.to_string(), End::Wrong);
    }

    fn silent(&mut self) {
        let patience = self.hub.plan.timing.handshake_timeout;
        let reason = format!("no `subscribe` within {patience:?}");
        self.note_breach(&reason);
        self.close(close::SILENT, &reason, End::Wrong);
    }

    /// The journal says why.
    fn unnoted(&mut self) {
        self.close(
            close::LATER,
            "the name cannot be written down now",
            End::Unnoted,
        );
    }

    fn taken(&mut self) {
        self.hub.context.metrics.names_taken.add(1);
        let reason = "another session took this name";
        self.close(close::TAKEN, reason, End::Taken);
    }

    fn unleased(&mut self, ended: &Ended) {
        if matches!(self.stage, Stage::Greeting { .. } | Stage::Streaming) {
            let counts = &self.hub.context.metrics.sessions_ended;
            let (code, count) = match ended.over {
                Over::Credential(denial) => {
                    let count = match denial {
                        Denial::Expired => &counts.expired,
                        Denial::Replaced => &counts.replaced,
                        Denial::Revoked | Denial::Wrong => &counts.revoked,
                    };
                    (close::UNKNOWN, count)
                }
                Over::Allowance => (close::TOO_MANY, &counts.bytes),
            };
            count.add(1);
            self.close(code, &ended.reason, End::Unleased);
        }
    }

    /// Says why, where that is spoken, and closes.
    fn part(&mut self, why: Reason, code: u16, reason: &str, end: End) {
        let now = self.started.elapsed();
        let sent = self.session.position();
        if let Some(v1) = &mut self.v1 {
            v1.bye(now, sent, why, self.socket.rest());
        }
        self.close(code, reason, end);
    }

    fn close(&mut self, code: u16, reason: &str, end: End) {
        if let Some(noting) = self.noting.take() {
            self.socket.rest().truncate(noting.rest_bytes); // it was not welcomed
        }
        self.socket.inbound.close(code.into(), reason);
        let until = Instant::now() + CLOSE_TIMEOUT;
        self.stage = Stage::Closing { until, end };
    }
}

/// A session that starts at `from`.
fn session(hub: &Hub, from: Position, now: Duration) -> Session {
    let timing = &hub.plan.timing;
    let rules = Rules {
        write_timeout: timing.write_timeout,
        confirm_timeout: timing.ping_interval,
        ping_interval: timing.ping_interval,
        ..Rules::accepted()
    };
    let mut session = Session::new(rules, from, fastrand::u64(..));
    session.connected(now);
    session
}
