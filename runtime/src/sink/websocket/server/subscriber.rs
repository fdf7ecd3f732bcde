//! One subscriber: a cursor over the journal and the socket that it feeds.
//!
//! Owns the socket, and is its only writer: shared frames from the journal, and between two frames
//! the control frames that `inbound` made. Never holds a queue: what the kernel does not take stays in
//! the journal, but for the rest of one frame. Called by `http`.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::inbound::{Heard, Inbound};
use super::release::Signal;
use super::{AtEnd, Hub};
use crate::journal::{Chunk, Position, Read};

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 64 * 1024;
/// Chunks that are gathered for one write.
const WRITE_CHUNKS: usize = 16;
/// Writes, or reads, after which others have their turn.
const TURN: usize = 4;
/// Bytes of one read; a subscriber says little.
const READ_BYTES: usize = 4096;
/// Control frames that may wait for a peer that asks and does not read.
const OUTBOX_BYTES_MAX: usize = 4096;
/// Longest wait for the answer to our Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Closed because the journal no longer has what comes next.
const FELL_BEHIND: CloseCode = CloseCode::Library(4008);

/// How a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The subscriber closed, or broke off.
    Left,
    /// It has everything, and nothing more comes.
    Complete,
    /// The journal went on without it.
    FellBehind { lost: u64 },
    /// It answered no Ping, or took nothing for too long.
    Dead,
    /// The run was aborted.
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Frames go out.
    Streaming,
    /// Our Close is queued or out; its answer is awaited until the deadline.
    Closing { until: Instant, end: End },
    /// Both have closed; what is queued goes out until the deadline.
    Closed { until: Instant, end: End },
}

/// How a turn of writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrote {
    /// There is nothing more to send.
    All,
    /// The kernel takes no more.
    Blocked,
    /// There is more, and others wait.
    Turn,
}

/// Serves a subscriber until it leaves, falls behind, or the run ends.
pub(super) async fn run(hub: &Hub, peer: SocketAddr, stream: TcpStream, read_ahead: &[u8]) {
    hub.context.metrics.subscribers.add(1);
    tracing::debug!(%peer, "subscribed");
    let mut subscriber = Subscriber::new(hub, stream);
    subscriber.hear(read_ahead);
    let end = subscriber.serve().await;
    hub.context.metrics.subscribers.sub(1);
    match end {
        End::FellBehind { lost } => {
            tracing::warn!(%peer, lost, "a subscriber fell behind the journal: disconnected");
        }
        End::Dead => tracing::info!(%peer, "a subscriber answers no more: disconnected"),
        end => tracing::debug!(%peer, ?end, "a subscriber left"),
    }
}

struct Subscriber<'a> {
    hub: &'a Hub,
    stream: TcpStream,
    inbound: Inbound,
    signal: watch::Receiver<Signal>,
    /// The next record to send.
    position: Position,
    /// Bytes that must go out before anything else: of a frame that was cut, or control frames.
    rest: Vec<u8>,
    rest_written: usize,
    stage: Stage,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    /// Since when the kernel takes nothing.
    blocked_at: Option<Instant>,
}

impl<'a> Subscriber<'a> {
    fn new(hub: &'a Hub, stream: TcpStream) -> Self {
        Self {
            signal: hub.released.watch(),
            // From the newest on.
            position: hub.context.journal.marks().borrow().durable,
            hub,
            stream,
            inbound: Inbound::new(),
            rest: Vec::new(),
            rest_written: 0,
            stage: Stage::Streaming,
            heard_at: Instant::now(),
            pinged_at: None,
            blocked_at: None,
        }
    }

    async fn serve(&mut self) -> End {
        let hub = self.hub;
        let mut alarm = pin!(sleep_until(self.deadline()));
        loop {
            let Ok(wrote) = self.write() else {
                return self.ended(End::Left);
            };
            match (self.stage, wrote) {
                (_, Wrote::Turn) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                (Stage::Closed { end, .. }, Wrote::All) => return end,
                (Stage::Streaming, Wrote::All) if self.close_at_end() => continue,
                _ => (),
            }
            // Moved on lazily: re-arming a timer for every write would cost more than the write.
            let deadline = self.deadline();
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            let blocked = wrote == Wrote::Blocked;
            let interest = self.interest(blocked);
            tokio::select! {
                ready = self.stream.ready(interest) => match ready {
                    Ok(ready) if ready.is_readable() || ready.is_read_closed() => {
                        if self.read().is_err() {
                            return self.ended(End::Left);
                        }
                    }
                    Ok(_) => (),
                    Err(_) => return self.ended(End::Left),
                },
                // A stalled subscriber is not woken by what it cannot take.
                _ = self.signal.changed(), if !blocked => (),
                () = hub.context.stop.abort.cancelled(), if blocked => return End::Aborted,
                () = &mut alarm => {
                    if let Some(end) = self.on_time() {
                        return end;
                    }
                    alarm.as_mut().reset(self.deadline());
                }
            }
            if self.signal.borrow().aborted {
                return End::Aborted;
            }
        }
    }

    /// The end that a broken connection means here.
    fn ended(&self, end: End) -> End {
        match self.stage {
            Stage::Streaming => end,
            Stage::Closing { end, .. } | Stage::Closed { end, .. } => end,
        }
    }

    fn interest(&mut self, blocked: bool) -> Interest {
        let listens = self.inbound.outbox().len() < OUTBOX_BYTES_MAX;
        match (listens, blocked) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, _) => Interest::WRITABLE,
        }
    }

    /// When `on_time` is due.
    fn deadline(&self) -> Instant {
        let timing = &self.hub.plan.timing;
        match (self.stage, self.blocked_at) {
            (Stage::Closing { until, .. } | Stage::Closed { until, .. }, _) => until,
            (Stage::Streaming, Some(blocked_at)) => blocked_at + timing.write_timeout,
            (Stage::Streaming, None) => {
                self.pinged_at.unwrap_or(self.heard_at) + timing.ping_interval
            }
        }
    }

    /// Acts on a deadline that has passed; one that was moved on since is left for later.
    fn on_time(&mut self) -> Option<End> {
        let now = Instant::now();
        if now < self.deadline() {
            return None;
        }
        match self.stage {
            Stage::Closing { end, .. } | Stage::Closed { end, .. } => Some(end),
            Stage::Streaming if self.blocked_at.is_some() || self.pinged_at.is_some() => {
                Some(End::Dead)
            }
            Stage::Streaming => {
                self.inbound.ping();
                self.pinged_at = Some(now);
                None
            }
        }
    }

    /// Reads what there is, for a turn at most.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..TURN {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.hear(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard_at = Instant::now();
        self.pinged_at = None;
        if !matches!(self.stage, Stage::Closed { .. }) && self.inbound.hear(bytes) == Heard::Close {
            let until = self.heard_at + CLOSE_TIMEOUT;
            let end = self.ended(End::Left);
            self.stage = Stage::Closed { until, end };
        }
    }

    fn close(&mut self, code: CloseCode, reason: &str, end: End) {
        self.inbound.close(code, reason);
        let until = Instant::now() + CLOSE_TIMEOUT;
        self.stage = Stage::Closing { until, end };
    }

    /// Closes where the subscriber has all that will ever come and is not to stay.
    fn close_at_end(&mut self) -> bool {
        let signal = *self.signal.borrow();
        if !signal.marks.closed || self.position < signal.marks.head {
            return false;
        }
        match (signal.draining, self.hub.plan.at_end) {
            (true, _) => self.close(CloseCode::Away, "going away", End::Complete),
            (false, AtEnd::Exit) => self.close(CloseCode::Normal, "end of stream", End::Complete),
            (false, AtEnd::Serve) => return false,
        }
        true
    }

    /// Writes what is to go out, for a turn at most.
    fn write(&mut self) -> io::Result<Wrote> {
        for _ in 0..TURN {
            let wrote = if self.rest.is_empty() {
                // Between two frames: what the library has to say goes first.
                std::mem::swap(&mut self.rest, self.inbound.outbox());
                if !self.rest.is_empty() {
                    self.write_rest()
                } else if self.stage != Stage::Streaming {
                    return Ok(Wrote::All);
                } else {
                    match self.write_frames() {
                        Some(wrote) => wrote,
                        None if self.stage == Stage::Streaming => return Ok(Wrote::All),
                        None => continue,
                    }
                }
            } else {
                self.write_rest()
            };
            match wrote {
                Ok(()) => self.blocked_at = None,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked_at.get_or_insert_with(Instant::now);
                    return Ok(Wrote::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Wrote::Turn)
    }

    fn write_rest(&mut self) -> io::Result<()> {
        self.rest_written += self.stream.try_write(&self.rest[self.rest_written..])?;
        if self.rest_written == self.rest.len() {
            self.rest.clear();
            self.rest_written = 0;
        }
        Ok(())
    }

    /// Writes frames from the journal as they are, many in one call; `None` where there is none, or
    /// where they are gone and the subscriber is told so.
    fn write_frames(&mut self) -> Option<io::Result<()>> {
        if self.position >= self.signal.borrow_and_update().marks.durable {
            return None;
        }
        let mut gathered = [const { None }; WRITE_CHUNKS];
        let mut slices = [IoSlice::new(&[]); WRITE_CHUNKS];
        let (mut count, mut bytes, mut next) = (0, 0, self.position);
        while count < WRITE_CHUNKS && bytes < WRITE_BYTES {
            match self.hub.context.journal.read(next) {
                Read::Chunk(chunk) => {
                    let start = chunk.frame_wire(chunk.frame_at(next)).start;
                    bytes += chunk.wire.len() - start;
                    next = chunk.end();
                    gathered[count] = Some((chunk, start));
                    count += 1;
                }
                Read::Lost { tail } if count == 0 => {
                    let lost = tail.since(self.position);
                    let reason = format!("fell behind: {lost} records lost");
                    self.close(FELL_BEHIND, &reason, End::FellBehind { lost });
                    return None;
                }
                Read::Wait | Read::Lost { .. } => break,
            }
        }
        for (slice, (chunk, start)) in slices.iter_mut().zip(gathered.iter().flatten()) {
            *slice = IoSlice::new(&chunk.wire[*start..]);
        }
        if count == 0 {
            return None;
        }
        let wrote = self.stream.try_write_vectored(&slices[..count]);
        Some(wrote.map(|written| self.advance(gathered.iter().flatten(), written)))
    }

    /// Moves the cursor past what was written. Of a frame that was cut, the rest is kept here, so
    /// that a subscriber that stalls holds no chunk that the journal has let go.
    fn advance<'c>(&mut self, gathered: impl Iterator<Item = &'c (Chunk, usize)>, written: usize) {
        let before = self.position;
        let mut left = written;
        for (chunk, start) in gathered {
            let reached = start + left;
            if reached >= chunk.wire.len() {
                left = reached - chunk.wire.len();
                self.position = chunk.end();
                continue;
            }
            let cut = chunk
                .frames
                .partition_point(|frame| frame.wire_end as usize <= reached);
            let (wire, records) = (chunk.frame_wire(cut), chunk.frame_records(cut));
            if reached > wire.start {
                self.rest.extend_from_slice(&chunk.wire[reached..wire.end]);
                self.position = chunk.first.plus(records.end as u64);
            } else {
                self.position = chunk.first.plus(records.start as u64);
            }
            break;
        }
        let metrics = &self.hub.context.metrics;
        metrics.records_sent.add(self.position.since(before));
        metrics.bytes_sent.add(written as u64);
    }
}
