//! What goes out to a subscriber: frames of the journal, marks behind them, and what has to be said.
//!
//! Owns the order of one turn of writing. The session says what is next; nothing here waits.

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;

use super::super::gathered::{Found, Gathered, WRITE_BYTES};
use super::super::lag::Policy;
use super::super::v1::V1;
use super::super::{AtEnd, alone};
use super::{End, Stage, Subscriber};
use crate::journal::{Chunk, Marks, Position, Read};
use crate::sink::websocket::protocol::{MARK_FRAMES_MAX, Reason, close};
use crate::sink::websocket::session::{Order, Step};

/// Writes after which others have their turn.
const TURN: usize = 4;

/// How a turn of writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// There is nothing more to send.
    All,
    /// The kernel takes no more.
    Blocked,
    /// There is more, and others wait.
    Turn,
}

/// What is next.
enum Next {
    /// Frames of the journal.
    Frames(Order),
    /// Something that was queued just now.
    Control,
    /// Nothing before an event.
    Nothing,
}

impl Subscriber<'_> {
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
    pub(super) fn write(&mut self) -> ControlFlow<End, Wrote> {
        for _ in 0..TURN {
            let wrote = if self.socket.has_rest() {
                // What the library held back for want of room may have been the answer to a Close.
                self.digest();
                self.write_rest()
            } else {
                match self.stage {
                    Stage::Greeting { .. } => {
                        if !self.signal.borrow_and_update().draining {
                            return ControlFlow::Continue(Wrote::All);
                        }
                        self.close(close::RESTART, "restart", End::Complete);
                        Ok(())
                    }
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
                self.socket.inbound.ping(payload);
                Next::Control
            }
            Step::Close => {
                let draining = self.signal.borrow().draining;
                let (why, code, reason) = match draining {
                    true => (Reason::Restart, close::RESTART, "restart"),
                    false => (Reason::End, close::END, "end of stream"),
                };
                self.part(why, code, reason, End::Complete);
                Next::Control
            }
            Step::Wait(wait) => {
                self.wake = wait.until;
                match self
                    .v1
                    .as_mut()
                    .filter(|v1| room > 0 && now >= v1.heartbeat_at())
                {
                    Some(v1) => {
                        let sent = self.session.position();
                        v1.sender()
                            .heartbeat(now, sent, marks.durable, self.socket.rest());
                        Next::Control
                    }
                    None => Next::Nothing,
                }
            }
            Step::Drop(_) => return ControlFlow::Break(End::Dead),
            Step::Dial { .. } | Step::Poison { .. } | Step::Done | Step::Fail(_) => {
                return ControlFlow::Break(self.broken());
            }
        })
    }

    /// Notes that the kernel takes nothing; its time runs from the first refusal on.
    fn block(&mut self) {
        if !self.socket.blocked {
            self.socket.blocked = true;
            let whole = self.session.confirmed();
            self.session.written(self.started.elapsed(), whole, false);
        }
    }

    fn write_rest(&mut self) -> io::Result<()> {
        let done = self.socket.write_rest()?;
        let whole = match done {
            true => self.session.position(),
            false => self.session.confirmed(),
        };
        self.session.written(self.started.elapsed(), whole, done);
        Ok(())
    }

    /// Writes frames from the journal as they are, many in one call, with a mark behind them.
    fn write_frames(&mut self, order: Order) -> io::Result<()> {
        let journal = &*self.hub.context.journal;
        if self.v1.as_ref().is_some_and(|v1| v1.keys().is_some()) {
            return match journal.read(order.from) {
                Read::Chunk(chunk) => self.write_alone(&chunk),
                Read::Lost { tail } => self.lost(tail),
                Read::Wait => Ok(()),
            };
        }
        let frames_max = match self.v1 {
            Some(_) => MARK_FRAMES_MAX,
            None => u64::MAX,
        };
        let gathered = match Gathered::find(journal, order, frames_max) {
            Found::Frames(gathered) => gathered,
            Found::MidFrame(chunk) => return self.write_alone(&chunk),
            Found::Lost { tail } => return self.lost(tail),
            Found::Nothing => return Ok(()),
        };
        let mut mark = Vec::new();
        if let Some(v1) = &mut self.v1 {
            v1.sender().mark(gathered.end(), &mut mark);
        }
        let written = self.socket.write(&gathered, &mark)?;
        let now = self.started.elapsed();
        let before = self.session.position();
        let rest = self.socket.rest();
        let session = &mut self.session;
        let taken = gathered.taken(written, rest, |chunk, piece| {
            session.sent(now, chunk, piece);
        });
        if let Some(v1) = &mut self.v1 {
            match written.checked_sub(gathered.bytes()) {
                Some(of_mark) => rest.extend_from_slice(&mark[of_mark..]),
                None => v1.sender().mark(taken.begun, rest),
            }
            v1.sender().marked_at(now, taken.begun);
        }
        let drained = rest.is_empty();
        self.session.written(now, taken.whole, drained);
        let metrics = &self.hub.context.metrics;
        metrics.records_sent.add(taken.begun.since(before));
        metrics.bytes_sent.add(taken.bytes as u64);
        self.lease.sent(taken.bytes);
        Ok(())
    }

    /// Queues records in frames of their own.
    fn write_alone(&mut self, chunk: &Chunk) -> io::Result<()> {
        let now = self.started.elapsed();
        let rest = self.socket.rest();
        let keys = self.v1.as_ref().and_then(V1::keys);
        let from = self.session.position();
        let written = alone::write(chunk, from, keys, &self.hub.plan.framing, rest);
        let metrics = &self.hub.context.metrics;
        metrics.records_sent.add(written.frames);
        metrics.bytes_sent.add(rest.len() as u64);
        self.lease.sent(rest.len());
        let v1 = self
            .v1
            .as_mut()
            .expect("a plain subscriber starts at a frame and has no filter");
        v1.mark_alone(now, written.to, written.frames, rest);
        self.session.passed(now, written.to, rest.len() as u64);
        if rest.is_empty() {
            self.session.written(now, written.to, true);
        }
        Ok(())
    }

    /// The journal goes on without it: the pipeline says what becomes of it.
    fn lost(&mut self, tail: Position) -> io::Result<()> {
        let now = self.started.elapsed();
        let lost = tail.since(self.session.position());
        let metrics = &self.hub.context.metrics;
        metrics.records_lost.add(lost);
        match self.hub.plan.lag.policy {
            Policy::Disconnect => {
                metrics.behind_disconnected.add(1);
                let reason = format!("fell behind: {lost} records lost");
                self.part(
                    Reason::Behind,
                    close::BEHIND,
                    &reason,
                    End::FellBehind { lost },
                );
            }
            Policy::Skip => {
                metrics.behind_skipped.add(1);
                if self.skipped == 0 {
                    tracing::warn!(peer = %self.peer, lost, "a subscriber fell behind the journal: it skips");
                }
                self.skipped += lost;
                if let Some(v1) = &mut self.v1 {
                    let told = v1.keys().is_none().then_some(lost);
                    v1.sender().gap(now, tail, told, self.socket.rest());
                }
                self.session.passed(now, tail, 0);
                self.session.written(now, tail, self.v1.is_none());
            }
        }
        Ok(())
    }
}
