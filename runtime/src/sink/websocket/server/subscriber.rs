//! One subscriber: a cursor over the journal and the socket that it feeds.
//!
//! Owns the socket, and is its only writer: shared frames from the journal, and between two frames
//! the control frames that `inbound` made. Never holds a queue: what the kernel does not take stays in
//! the journal, but for the rest of one frame. The session says what is next. Called by
//! `http`.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::ops::{ControlFlow, Range};
use std::pin::pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::release::Signal;
use super::{AtEnd, Hub};
use crate::journal::{Chunk, Marks, Position, Read};
use crate::sink::websocket::inbound::Inbound;
use crate::sink::websocket::session::{Order, Piece, Rules, Session, Step};

/// Bytes that are gathered for one write.
const WRITE_BYTES: u64 = 64 * 1024;
/// Chunks that are gathered for one write.
const WRITE_CHUNKS: usize = 16;
/// Writes, or reads, after which others have their turn.
const TURN: usize = 4;
/// Bytes of one read; a subscriber says little.
const READ_BYTES: usize = 4096;
/// Longest wait for the answer to our Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest sleep where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);
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
    /// The session says what goes out.
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

/// What the session says is next.
enum Next {
    /// Frames of the journal.
    Frames(Order),
    /// A control frame that was queued just now.
    Control,
    /// Nothing before an event.
    Nothing,
}

/// Serves a subscriber until it leaves, falls behind, or the run ends.
pub(super) async fn run(
    hub: &Hub,
    peer: SocketAddr,
    stream: TcpStream,
    read_ahead: &[u8],
    from: Position,
) {
    hub.context.metrics.subscribers.add(1);
    tracing::debug!(%peer, "subscribed");
    let mut subscriber = Subscriber::new(hub, stream, from);
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
    session: Session,
    started: Instant,
    /// Bytes that must go out before anything else: of a frame that was cut, or control frames.
    rest: Vec<u8>,
    rest_written: usize,
    stage: Stage,
    /// The kernel took nothing at the last try.
    blocked: bool,
    /// When the session is to be asked again although nothing happens.
    wake: Option<Duration>,
}

impl<'a> Subscriber<'a> {
    fn new(hub: &'a Hub, stream: TcpStream, from: Position) -> Self {
        let timing = &hub.plan.timing;
        let rules = Rules {
            write_timeout: timing.write_timeout,
            confirm_timeout: timing.ping_interval,
            ping_interval: timing.ping_interval,
            ..Rules::accepted()
        };
        let mut session = Session::new(rules, from, fastrand::u64(..));
        session.connected(Duration::ZERO);
        Self {
            signal: hub.released.watch(),
            hub,
            stream,
            inbound: Inbound::of_subscriber(),
            session,
            started: Instant::now(),
            rest: Vec::new(),
            rest_written: 0,
            stage: Stage::Streaming,
            blocked: false,
            wake: None,
        }
    }

    async fn serve(&mut self) -> End {
        let hub = self.hub;
        let mut alarm = pin!(sleep_until(self.started + IDLE));
        loop {
            match self.write() {
                ControlFlow::Break(end) => return end,
                ControlFlow::Continue(Wrote::Turn) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                ControlFlow::Continue(Wrote::All | Wrote::Blocked) => (),
            }
            // Only brought forward here, and put off when it rings: to re-arm a timer for every write
            // would cost more than the write.
            let deadline = self.deadline();
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            let blocked = self.blocked;
            let interest = self.interest();
            tokio::select! {
                ready = self.stream.ready(interest) => match ready {
                    Ok(ready) if ready.is_readable() || ready.is_read_closed() => {
                        if self.read().is_err() {
                            return self.broken();
                        }
                    }
                    Ok(_) => (),
                    Err(_) => return self.broken(),
                },
                // A stalled subscriber is not woken by what it cannot take.
                _ = self.signal.changed(), if !blocked => (),
                () = hub.context.stop.abort.cancelled(), if blocked => return End::Aborted,
                () = &mut alarm => {
                    let deadline = self.deadline();
                    match self.stage {
                        Stage::Closing { end, .. } | Stage::Closed { end, .. }
                            if deadline <= Instant::now() => return end,
                        _ => alarm.as_mut().reset(deadline.max(Instant::now())),
                    }
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
            Stage::Streaming => End::Left,
            Stage::Closing { end, .. } | Stage::Closed { end, .. } => end,
        }
    }

    fn interest(&self) -> Interest {
        match self.blocked {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        }
    }

    fn deadline(&self) -> Instant {
        match self.stage {
            Stage::Closing { until, .. } | Stage::Closed { until, .. } => until,
            Stage::Streaming => match self.wake {
                Some(wake) => self.started + wake,
                None => Instant::now() + IDLE,
            },
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

    /// Takes what was read. Messages are ignored, Pings answered, violations closed upon.
    fn hear(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.session.heard(self.started.elapsed());
        }
        if matches!(self.stage, Stage::Closed { .. }) {
            return;
        }
        self.inbound.feed(bytes);
        while let Some(said) = self.inbound.next() {
            if let Err(error) = said {
                self.inbound.complain(&error);
                let until = Instant::now() + CLOSE_TIMEOUT;
                let end = self.broken();
                self.stage = Stage::Closed { until, end };
                return;
            }
        }
    }

    fn close(&mut self, code: CloseCode, reason: &str, end: End) {
        self.inbound.close(code, reason);
        let until = Instant::now() + CLOSE_TIMEOUT;
        self.stage = Stage::Closing { until, end };
    }

    /// The journal as the session is to see it: it ends only for those who are not to stay.
    fn marks(&mut self) -> Marks {
        let signal = *self.signal.borrow_and_update();
        let leaves = signal.draining || self.hub.plan.at_end == AtEnd::Exit;
        Marks {
            closed: signal.marks.closed && leaves,
            ..signal.marks
        }
    }

    /// Writes what is to go out, for a turn at most.
    fn write(&mut self) -> ControlFlow<End, Wrote> {
        for _ in 0..TURN {
            if self.rest.is_empty() {
                // Between two frames: what the library has to say goes first.
                self.rest = self.inbound.take_outbox();
                if !self.rest.is_empty() {
                    // What the library held back for want of room may have been the answer to a Close.
                    self.hear(&[]);
                }
            }
            let wrote = if !self.rest.is_empty() {
                self.write_rest()
            } else {
                match self.stage {
                    Stage::Streaming => match self.ask(WRITE_BYTES)? {
                        Next::Frames(order) => self.write_frames(order),
                        Next::Control => Ok(()),
                        Next::Nothing => return ControlFlow::Continue(Wrote::All),
                    },
                    Stage::Closing { .. } => return ControlFlow::Continue(Wrote::All),
                    Stage::Closed { end, .. } => return ControlFlow::Break(end),
                }
            };
            match wrote {
                Ok(()) => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.block();
                    if self.stage == Stage::Streaming {
                        self.ask(0)?;
                    }
                    return ControlFlow::Continue(Wrote::Blocked);
                }
                Err(_) => return ControlFlow::Break(self.broken()),
            }
        }
        ControlFlow::Continue(Wrote::Turn)
    }

    /// Asks the session what is next, and does what needs no socket.
    fn ask(&mut self, room: u64) -> ControlFlow<End, Next> {
        let marks = self.marks();
        let now = self.started.elapsed();
        ControlFlow::Continue(match self.session.next(now, room, marks) {
            Step::Send(order) => Next::Frames(order),
            Step::Ping(payload) => {
                self.inbound.ping(payload);
                Next::Control
            }
            Step::Close => {
                let (code, reason) = match self.signal.borrow().draining {
                    true => (CloseCode::Away, "going away"),
                    false => (CloseCode::Normal, "end of stream"),
                };
                self.close(code, reason, End::Complete);
                Next::Control
            }
            Step::Wait(wait) => {
                self.wake = wait.until;
                Next::Nothing
            }
            Step::Drop(_) => return ControlFlow::Break(End::Dead),
            Step::Dial { .. } | Step::Poison(_) | Step::Done | Step::Fail(_) => {
                return ControlFlow::Break(self.broken());
            }
        })
    }

    /// Notes that the kernel takes nothing; its time runs from the first refusal on.
    fn block(&mut self) {
        if !self.blocked {
            self.blocked = true;
            let whole = self.session.confirmed();
            self.session.written(self.started.elapsed(), whole, false);
        }
    }

    fn write_rest(&mut self) -> io::Result<()> {
        self.rest_written += self.stream.try_write(&self.rest[self.rest_written..])?;
        self.blocked = false;
        let now = self.started.elapsed();
        if self.rest_written == self.rest.len() {
            self.rest.clear();
            self.rest_written = 0;
            self.session.written(now, self.session.position(), true);
        } else {
            self.session.written(now, self.session.confirmed(), false);
        }
        Ok(())
    }

    /// Writes frames from the journal as they are, many in one call; or closes, where they are gone.
    fn write_frames(&mut self, mut order: Order) -> io::Result<()> {
        let mut gathered = [const { None }; WRITE_CHUNKS];
        let mut slices = [IoSlice::new(&[]); WRITE_CHUNKS];
        let mut count = 0;
        while count < WRITE_CHUNKS && order.bytes_max > 0 {
            let chunk = match self.hub.context.journal.read(order.from) {
                Read::Chunk(chunk) => chunk,
                Read::Lost { tail } if count == 0 => {
                    let lost = tail.since(order.from);
                    let reason = format!("fell behind: {lost} records lost");
                    self.close(FELL_BEHIND, &reason, End::FellBehind { lost });
                    return Ok(());
                }
                Read::Wait | Read::Lost { .. } => break,
            };
            let Piece::Frames(frames) = order.cut(&chunk) else {
                unreachable!("a subscriber starts at a chunk and moves by whole frames");
            };
            let piece = Piece::Frames(frames.clone());
            let bytes = piece.wire(&chunk).len() as u64;
            order.bytes_max = order.bytes_max.saturating_sub(bytes);
            order.from = chunk.first.plus(piece.records(&chunk).end as u64);
            gathered[count] = Some((chunk, frames));
            count += 1;
        }
        for (slice, (chunk, frames)) in slices.iter_mut().zip(gathered.iter().flatten()) {
            *slice = IoSlice::new(&chunk.wire[Piece::Frames(frames.clone()).wire(chunk)]);
        }
        let written = self.stream.try_write_vectored(&slices[..count])?;
        self.blocked = false;
        self.advance(gathered.iter().flatten(), written);
        Ok(())
    }

    /// Tells the session what the kernel took. Of a frame that was cut, the rest is kept here, so that
    /// a subscriber that stalls holds no chunk that the journal has let go.
    fn advance<'c>(
        &mut self,
        gathered: impl Iterator<Item = &'c (Chunk, Range<usize>)>,
        written: usize,
    ) {
        let now = self.started.elapsed();
        let before = self.session.position();
        let mut whole = before;
        let mut left = written;
        for (chunk, frames) in gathered {
            let wire = Piece::Frames(frames.clone()).wire(chunk);
            let reached = wire.end.min(wire.start + left);
            left -= reached - wire.start;
            let cut = chunk
                .frames
                .partition_point(|frame| frame.wire_end as usize <= reached);
            let mut end = cut;
            if cut > frames.start {
                whole = chunk
                    .first
                    .plus(u64::from(chunk.frames[cut - 1].records_end));
            }
            if reached < wire.end && reached > chunk.frame_wire(cut).start {
                let frame_end = chunk.frame_wire(cut).end;
                self.rest.extend_from_slice(&chunk.wire[reached..frame_end]);
                end += 1;
            }
            if end > frames.start {
                let piece = Piece::Frames(frames.start..end);
                self.session.sent(now, chunk, &piece);
            }
            if left == 0 {
                break;
            }
        }
        self.session.written(now, whole, self.rest.is_empty());
        let metrics = &self.hub.context.metrics;
        let records = self.session.position().since(before);
        metrics.records_sent.add(records);
        metrics.bytes_sent.add(written as u64);
    }
}
