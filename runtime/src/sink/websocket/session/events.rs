//! What the shell tells the session: connections made and lost, bytes written, what the peer said.

use std::time::Duration;

use super::{
    BREAKS_ALONE_MIN, BREAKS_BEFORE_ISOLATION, CONTROL_MAX, Confirm, Connection, DOUBT_LASTS,
    DOUBT_MAX, DialFailure, Failure, Mark, PING_BYTES, PROBES_UNANSWERED_MAX, Piece,
    RETRY_AFTER_MAX, Ramp, Session, State,
};
use crate::journal::{Chunk, Position};

impl Session {
    /// A connection is made.
    pub fn connected(&mut self, now: Duration) {
        if self.connected_once {
            self.account.reconnects += 1;
        }
        self.connected_once = true;
        self.connection = Connection {
            nonce: self.random.u64(..),
            pinged_to: self.confirmed,
            written_to: self.confirmed,
            ramp: Ramp::new(now, &self.rules),
            progress_at: now,
            heard_at: now,
            ..Connection::default()
        };
        self.sent = self.confirmed;
        self.state = match self.rules.confirm {
            Confirm::Written => State::Open,
            Confirm::Place => State::Greeting { since: now },
            Confirm::Pong | Confirm::Message => State::Probing {
                since: now,
                sent: false,
            },
        };
    }

    /// No connection could be made.
    pub fn dial_failed(&mut self, now: Duration, why: DialFailure) {
        if self.state != State::Dialing {
            return;
        }
        if why.permanent && !self.connected_once {
            self.failure = Some(Failure::Refused(why.message));
            return;
        }
        self.reread |= why.unauthorized;
        let asked = why.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let dial_at = now + self.backoff().max(asked);
        self.state = State::Down { dial_at };
    }

    /// The connection is gone: reset, end of file, or a Close from the peer, which confirms nothing.
    pub fn broken(&mut self, now: Duration) {
        match self.state {
            State::Closing { .. } => self.state = State::Over,
            State::Greeting { .. } | State::Probing { .. } | State::Open => self.lose(now),
            State::Down { .. } | State::Dialing | State::Poisoned { .. } | State::Over => {}
        }
    }

    /// The peer says what it has not said right, and the shell hangs up: that convicts no record.
    pub fn offended(&mut self, now: Duration) {
        if matches!(
            self.state,
            State::Greeting { .. } | State::Probing { .. } | State::Open
        ) {
            self.count_unanswered(Failure::NoPlace);
            self.lose_mute(now);
        }
    }

    /// Another connection on which the peer did not answer as it has to before the first record; after a
    /// few, if it never did, it is refused.
    pub(super) fn count_unanswered(&mut self, failure: Failure) {
        self.probes_unanswered += 1;
        if self.probes_unanswered >= PROBES_UNANSWERED_MAX && !self.probe_answered_once {
            self.failure = Some(failure);
        }
    }

    /// The peer says that it has everything below `from`, and goes on there: that is confirmed (I1). What
    /// it had before this session was made may be beyond what was ever sent by it. Anything below what is
    /// confirmed is where it was.
    pub fn subscribed(&mut self, now: Duration, from: Position) {
        self.heard(now);
        if !matches!(self.state, State::Greeting { .. }) {
            return;
        }
        let from = from.max(self.confirmed);
        self.sent = from;
        self.high = self.high.max(from);
        self.connection.written_to = from;
        self.connection.pinged_to = from;
        self.confirm(now, from);
        self.probe_answered(now);
    }

    /// These records of `chunk` went into the shell's output buffer. Returns how many of them had been
    /// sent before.
    pub fn sent(&mut self, now: Duration, chunk: &Chunk, piece: &Piece) -> u64 {
        let records = piece.records(chunk);
        let start = chunk.first.plus(records.start as u64);
        let end = chunk.first.plus(records.end as u64);
        debug_assert_eq!(
            start, self.sent,
            "records go out in the journal's order (I3)"
        );
        if self.in_flight() == 0 {
            self.connection.progress_at = now;
            self.connection.repings = 0;
        }
        let wire = piece.wire(chunk);
        let bytes_before = self.connection.bytes_sent;
        self.connection.bytes_sent += wire.len() as u64;
        self.connection.blocked_since.get_or_insert(now);
        self.connection.leaving = true;
        if matches!(self.rules.confirm, Confirm::Message | Confirm::Place) {
            let frames = &mut self.connection.frames;
            match piece {
                Piece::Record(_) => frames.push_back((end, self.connection.bytes_sent)),
                Piece::Frames(range) => {
                    frames.extend(chunk.frames[range.clone()].iter().map(|f| {
                        let bytes = u64::from(f.wire_end) - wire.start as u64;
                        (
                            chunk.first.plus(u64::from(f.records_end)),
                            bytes_before + bytes,
                        )
                    }))
                }
            }
        }
        let resent = self.high.min(end).since(start);
        self.account.sent += records.len() as u64;
        self.account.resent += resent;
        self.high = self.high.max(end);
        self.sent = end;
        resent
    }

    /// The next record to send is at `to`: those before it went out alone in `bytes` bytes, were not
    /// asked for, or are gone. Only a peer that was accepted is sent some and not others.
    pub fn passed(&mut self, now: Duration, to: Position, bytes: u64) {
        debug_assert!(
            !self.rules.dials,
            "a push loses nothing and filters nothing"
        );
        debug_assert!(to >= self.sent, "a session does not go back");
        self.connection.bytes_sent += bytes;
        if bytes > 0 {
            self.connection.blocked_since.get_or_insert(now);
        }
        self.high = self.high.max(to);
        self.sent = to;
    }

    /// The kernel took bytes: every record below `to` is wholly written, and `drained` says whether
    /// the output buffer is empty now.
    pub fn written(&mut self, now: Duration, to: Position, drained: bool) {
        self.connection.blocked_since = (!drained).then_some(now);
        self.connection.written_to = self.connection.written_to.max(to);
        if self.rules.confirm == Confirm::Written && self.state == State::Open {
            self.confirm(now, to);
        }
    }

    /// What becomes of what was sent: `moved` says that bytes left since the last time, `all` that none
    /// is on this side of the line any more. Only what leaves with records counts: their bytes end, and
    /// Pings would go out for ever (I4).
    pub fn leaving(&mut self, now: Duration, moved: bool, all: bool) {
        let connection = &mut self.connection;
        if moved && connection.leaving {
            connection.moved_at = now;
            connection.repings = 0;
        }
        connection.leaving &= !all;
    }

    /// Anything came from the peer.
    pub fn heard(&mut self, now: Duration) {
        self.connection.heard_at = now;
        self.connection.keepalive_at = None;
    }

    /// A Pong came. It confirms everything before its Ping, whether earlier Pings were answered or not;
    /// one that answers no Ping of this connection is legal and means nothing.
    pub fn pong(&mut self, now: Duration, payload: &[u8]) {
        self.heard(now);
        let Some(sequence) = self.sequence_of(payload) else {
            self.connection.wrong_pongs = self.connection.wrong_pongs.saturating_add(1);
            return;
        };
        if let State::Probing { sent: true, .. } = self.state {
            self.probe_answered(now);
        }
        let mut answered: Option<Mark> = None;
        while let Some(mark) = self.connection.marks.front() {
            if mark.sequence > sequence {
                break;
            }
            answered = self.connection.marks.pop_front();
        }
        let Some(mark) = answered else {
            return;
        };
        if self.rules.confirm == Confirm::Pong && self.state == State::Open {
            self.connection.bytes_confirmed = mark.bytes;
            self.confirm(now, mark.to);
        }
    }

    /// The connection works. Where a record is suspected to kill it, it must stand a while without.
    fn probe_answered(&mut self, now: Duration) {
        self.connection.progress_at = now;
        self.connection.repings = 0;
        self.probes_unanswered = 0;
        self.probe_answered_once = true;
        let control = self.breaks_alone > 0 && !self.connection.probe_answered;
        self.connection.probe_answered = true;
        self.state = if control {
            State::Probing {
                since: now + self.control,
                sent: false,
            }
        } else {
            State::Open
        };
    }

    /// The Ping of this connection that `payload` answers.
    fn sequence_of(&self, payload: &[u8]) -> Option<u64> {
        let payload: &[u8; PING_BYTES] = payload.try_into().ok()?;
        let (nonce, sequence) = payload.split_at(8);
        let nonce = u64::from_be_bytes(nonce.try_into().ok()?);
        let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
        let ours = nonce == self.connection.nonce && sequence < self.connection.sequence;
        ours.then_some(sequence)
    }

    /// The peer's messages confirm `frames` more frames of this connection, in order. More than are in
    /// flight confirm those that are.
    pub fn replied(&mut self, now: Duration, frames: u64) {
        self.heard(now);
        let in_flight = self.connection.frames.len() as u64;
        let Some(last) = frames.min(in_flight).checked_sub(1) else {
            return;
        };
        let (to, _) = self.connection.frames[last as usize];
        self.acknowledged(now, to);
    }

    /// The peer's message says that it has handled `frames` frames of this connection in all. More than
    /// were sent is nonsense and confirms nothing.
    pub fn counted(&mut self, now: Duration, frames: u64) {
        self.heard(now);
        let more = frames.saturating_sub(self.connection.frames_confirmed);
        if more <= self.connection.frames.len() as u64 {
            self.replied(now, more);
        }
    }

    /// The peer's message confirms every record below `to`.
    pub fn acknowledged(&mut self, now: Duration, to: Position) {
        self.heard(now);
        let confirms = matches!(self.rules.confirm, Confirm::Message | Confirm::Place);
        if !confirms || self.state != State::Open || to > self.sent {
            return;
        }
        while let Some((end, bytes)) = self.connection.frames.front() {
            if *end > to {
                break;
            }
            self.connection.bytes_confirmed = *bytes;
            self.connection.frames_confirmed += 1;
            self.connection.frames.pop_front();
        }
        self.confirm(now, to);
    }

    /// The failover has the record of [`Step::Poison`](super::Step::Poison).
    pub fn settled(&mut self, now: Duration) {
        if !matches!(self.state, State::Poisoned { .. }) {
            return;
        }
        self.confirmed = self.confirmed.plus(1);
        self.sent = self.confirmed;
        self.high = self.high.max(self.confirmed);
        // The culprit is found: the others of its time are sent as usual until they prove otherwise.
        self.isolate_to = self.confirmed;
        self.breaks = 0;
        self.breaks_alone = 0;
        self.unexplained = 0;
        self.state = State::Down { dial_at: now };
    }

    /// Everything below `to` is confirmed (I1).
    fn confirm(&mut self, now: Duration, to: Position) {
        debug_assert!(to <= self.sent, "only what was sent is confirmed");
        if to <= self.confirmed {
            return;
        }
        let connection = &mut self.connection;
        connection.progress_at = now;
        connection.repings = 0;
        let (confirmed, sent) = (connection.bytes_confirmed, connection.bytes_sent);
        connection.ramp.confirmed(now, confirmed, sent);
        self.confirmed = to;
        if self.unexplained > 0 && to >= self.unexplained_to {
            self.add_doubt(now, self.unexplained);
            self.unexplained = 0;
        }
        self.failures = 0;
        self.breaks = 0;
        self.breaks_alone = 0;
    }

    /// The connection is gone. Everything unconfirmed is sent again, in order, before anything new (I3).
    pub(super) fn lose(&mut self, now: Duration) {
        if !self.rules.dials {
            self.state = State::Over;
            return;
        }
        let dial_at = now + self.backoff();
        let had_answered = self.state == State::Open && self.rules.confirm != Confirm::Written;
        self.state = State::Down { dial_at };
        if had_answered && self.in_flight() > 0 {
            self.suspect(now);
        } else if self.connection.probe_answered {
            self.add_doubt(now, 1);
        }
        self.sent = self.confirmed;
        self.connection = Connection::default();
    }

    /// Whether the peer's stack lives and only its program confirms nothing.
    pub(super) fn is_mute(&self) -> bool {
        let connection = &self.connection;
        let by_its_program = matches!(self.rules.confirm, Confirm::Message | Confirm::Place);
        by_its_program && connection.heard_at > connection.progress_at
    }

    /// Gives a mute peer up. It broke nothing: whoever reads no replies learns nothing of a record.
    pub(super) fn lose_mute(&mut self, now: Duration) {
        let dial_at = now + self.backoff();
        self.state = State::Down { dial_at };
        self.sent = self.confirmed;
        self.connection = Connection::default();
    }

    /// A connection that had answered the probe broke with records in flight: were they the cause?
    fn suspect(&mut self, now: Duration) {
        if self.breaks == 0 {
            self.suspects_to = self.sent;
        }
        self.suspects_to = self.suspects_to.max(self.sent);
        self.breaks += 1;
        self.unexplained += 1;
        self.unexplained_to = self.unexplained_to.max(self.sent);
        // Alone means: nothing else in flight, and really handed to the kernel.
        let alone =
            self.is_isolating() && self.in_flight() == 1 && self.connection.written_to >= self.sent;
        if alone {
            self.breaks_alone += 1;
            self.control = now
                .saturating_sub(self.connection.progress_at)
                .min(CONTROL_MAX);
        }
        if self.breaks >= BREAKS_BEFORE_ISOLATION {
            self.isolate_to = self.isolate_to.max(self.suspects_to);
        }
        if self.breaks_alone >= BREAKS_ALONE_MIN + self.doubt(now) {
            self.state = State::Poisoned { told: false };
        }
    }

    /// How often the peer broke lately although no record was to blame.
    fn doubt(&self, now: Duration) -> u32 {
        if now > self.doubted_at + DOUBT_LASTS {
            0
        } else {
            self.doubt
        }
    }

    fn add_doubt(&mut self, now: Duration, breaks: u32) {
        self.doubt = (self.doubt(now) + breaks).min(DOUBT_MAX);
        self.doubted_at = now;
    }

    /// How long to wait before the next dial: anything from 0 to a bound that doubles with every
    /// failure, so that a thousand clients of a peer that restarts do not come back in step.
    fn backoff(&mut self) -> Duration {
        let doubled = self
            .rules
            .backoff_min
            .saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let bound = doubled.min(self.rules.backoff_max).as_micros() as u64;
        Duration::from_micros(self.random.u64(0..=bound))
    }
}
