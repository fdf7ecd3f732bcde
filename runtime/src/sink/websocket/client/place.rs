//! What the client says and hears beside the records where its receiver keeps its place.
//!
//! Owns the way between `push`, which knows what to say, and the line. Does nothing with another `ack`.
//! Called by the client's loop.

use std::time::Duration;

use tokio::time::Instant;

use super::Client;
use crate::journal::{Chunk, Position};
use crate::sink::websocket::outbound::Control;
use crate::sink::websocket::protocol::{Reason, Said, Subscribe, Wrong, close};
use crate::sink::websocket::session::{Order, Piece};

/// Longest wait for the peer's Close, where it broke the protocol.
const PART_TIMEOUT: Duration = Duration::from_secs(2);

impl Client {
    /// Takes a message of the receiver.
    pub(super) fn hear(&mut self, now: Duration, message: &[u8]) {
        let Some(push) = &mut self.push else { return };
        let heard = match push.hear(message) {
            Ok(Said::Subscribe(subscribe)) => self.begin(now, &subscribe),
            Ok(Said::Ack) => Ok(()),
            Err(wrong) => Err(wrong),
        };
        if let Err(wrong) = heard {
            self.offended(&wrong);
        }
    }

    /// Answers `subscribe`.
    fn begin(&mut self, now: Duration, subscribe: &Subscribe) -> Result<(), Wrong> {
        let (Some(push), Some(line)) = (&mut self.push, &mut self.line) else {
            return Ok(());
        };
        let mut out = Vec::new();
        let journal = &*self.context.journal;
        let confirmed = self.session.confirmed();
        let (from, resumed, lost) = push.begin(now, journal, subscribe, confirmed, &mut out)?;
        line.push_unmasked(&out);
        self.session.subscribed(now, from);
        if resumed {
            tracing::info!("the receiver goes on at record {}", from.0);
        } else {
            let lost = lost.map_or("an unknown number of".to_owned(), |lost| lost.to_string());
            tracing::warn!(
                "cannot go on where the receiver stands: {lost} records before record {} are over for \
                 it, and what it has of those behind it comes again",
                from.0
            );
        }
        Ok(())
    }

    /// Tells the session what was acknowledged.
    pub(super) fn settle_acks(&mut self) {
        let (Some(push), true) = (&mut self.push, self.line.is_some()) else {
            return;
        };
        match push.acked(self.session.position()) {
            Ok(None) => {}
            Ok(Some(frames)) => self.session.counted(self.start.elapsed(), frames),
            Err(wrong) => self.offended(&wrong),
        }
    }

    /// The receiver breaks the protocol: says so, and hangs up.
    fn offended(&mut self, wrong: &Wrong) {
        self.part(close::WRONG, &wrong.to_string());
        self.session.offended(self.start.elapsed());
        self.tell_break(&format!("the receiver breaks wirefall.v1: {wrong}"));
    }

    /// Hangs up with a Close that says why, and does not wait for it here.
    pub(super) fn part(&mut self, code: u16, reason: &str) {
        if let Some(line) = self.line.take() {
            let reason = reason.to_owned();
            tokio::spawn(async move { line.part(code, &reason, PART_TIMEOUT).await });
        }
    }

    /// The order, cut down so that a mark is never far.
    pub(super) fn bounded(&self, order: Order) -> Order {
        match &self.push {
            None => order,
            Some(push) => Order {
                records_max: order.records_max.min(push.frames_max()),
                ..order
            },
        }
    }

    /// A piece goes out next: says so first where it is the first of a frame that is taken apart.
    pub(super) fn before(&mut self, chunk: &Chunk, piece: &Piece) {
        let Piece::Record(index) = piece else { return };
        let position = chunk.first.plus(*index as u64);
        if chunk.frame_records(chunk.frame_at(position)).start == *index {
            self.say(|push, now, _, out| push.mark_apart(now, position, out));
        }
    }

    /// A piece went out: a mark follows where it must not wait.
    pub(super) fn after(&mut self, chunk: &Chunk, piece: &Piece) {
        let Some(push) = &mut self.push else { return };
        push.sent(piece.frames() as u64, piece.wire(chunk).len() as u64);
        if push.is_mark_due() {
            self.mark();
        }
    }

    /// A mark behind what went out since the last.
    pub(super) fn mark(&mut self) {
        self.say(|push, now, sent, out| push.mark(now, sent, out));
    }

    /// A sign of life, where it is time for one.
    pub(super) fn live(&mut self) {
        let head = self.marks.borrow().durable;
        self.say(|push, now, sent, out| push.heartbeat(now, sent, head, out));
    }

    /// When a sign of life is due.
    pub(super) fn live_at(&self) -> Option<Instant> {
        let push = self.push.as_ref().filter(|_| !self.session.is_closing())?;
        push.heartbeat_at().map(|at| self.start + at)
    }

    /// Our Close: everything is confirmed. A receiver that keeps its place is told why.
    pub(super) fn close(&mut self) {
        let stopped = self.context.stop.drain.is_cancelled();
        let (code, reason) = match (&self.push, stopped) {
            (Some(_), true) => (close::RESTART, Reason::Restart),
            _ => (close::END, Reason::End),
        };
        self.say(|push, now, sent, out| push.bye(now, sent, reason, out));
        self.control(Control::Close, &code.to_be_bytes());
    }

    fn say(&mut self, words: impl FnOnce(&mut super::Push, Duration, Position, &mut Vec<u8>)) {
        if let (Some(push), Some(line)) = (&mut self.push, &mut self.line) {
            let mut out = Vec::new();
            let (now, sent) = (self.start.elapsed(), self.session.position());
            words(push, now, sent, &mut out);
            line.push_unmasked(&out);
        }
    }
}
