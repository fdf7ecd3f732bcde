//! What must hold: of every order, every break and the end.
//!
//! Keeps its own account of what was sent and what arrived, and compares the session's with it.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use wirefall::sink::websocket::session::{Confirm, Rules, Session};

/// See the module.
pub struct Judge {
    seed: u64,
    rules: Rules,
    /// How often each record went into the shell's buffer.
    sent: Vec<u32>,
    /// How often the peer handled each record.
    handled: Vec<u32>,
    /// Records taken by the kernel, to their last byte.
    taken_to: u64,
    /// Everything below was handled by the peer, or is in the failover.
    prefix: u64,
    pub failed_over: Vec<u64>,
    connections: u64,
    /// The session died and began again.
    restarted: bool,
    /// Of the present connection: unconfirmed frames (where each ends, its records and bytes), the
    /// next record that the peer is to handle, and what it handled a second time.
    frames: VecDeque<(u64, u64, u64)>,
    next: u64,
    repeats: u64,
    repeat_bytes: u64,
    frame_records_last: u64,
    frame_bytes_max: u64,
    /// Longest time that a session may stay on a line that says nothing.
    pub silence_max: Duration,
    /// When a record was last given to a line, or the line was made.
    used_at: Duration,
}

impl Judge {
    pub fn new(seed: u64, rules: Rules, records: u64, silence_max: Duration) -> Self {
        Self {
            seed,
            rules,
            sent: vec![0; records as usize],
            handled: vec![0; records as usize],
            taken_to: 0,
            prefix: 0,
            failed_over: Vec::new(),
            connections: 0,
            restarted: false,
            frames: VecDeque::new(),
            next: 0,
            repeats: 0,
            repeat_bytes: 0,
            frame_records_last: 0,
            frame_bytes_max: 0,
            silence_max,
            used_at: Duration::ZERO,
        }
    }

    pub fn connected(&mut self, now: Duration, session: &Session) {
        self.connections += 1;
        self.frames.clear();
        self.next = session.confirmed().0;
        self.repeats = 0;
        self.repeat_bytes = 0;
        self.used_at = now;
    }

    /// The peer goes on where it says.
    pub fn subscribed(&mut self, session: &Session) {
        self.next = session.confirmed().0;
    }

    /// The session died; the next one begins an account of its own.
    pub fn restarts(&mut self) {
        self.restarted = true;
        self.connections = 0;
        self.sent.fill(0);
        self.frames.clear();
    }

    /// A frame goes out: in order, and with the window's bounds kept but for one frame.
    pub fn sends(&mut self, now: Duration, records: Range<u64>, bytes: u64, session: &Session) {
        let seed = self.seed;
        let confirmed = session.confirmed().0;
        while self
            .frames
            .front()
            .is_some_and(|(end, ..)| *end <= confirmed)
        {
            self.frames.pop_front();
        }
        let expected = self.frames.back().map_or(confirmed, |(end, ..)| *end);
        assert_eq!(records.start, expected, "seed {seed}: out of order (I3)");
        let count = records.end - records.start;
        if self.rules.confirm != Confirm::Written {
            let in_flight: u64 = self.frames.iter().map(|(_, records, _)| records).sum();
            let in_flight_bytes: u64 = self.frames.iter().map(|(.., bytes)| bytes).sum();
            let (most, most_bytes) = (self.rules.window_records_max, self.rules.window_bytes_max);
            assert!(
                in_flight < most && in_flight_bytes < most_bytes,
                "seed {seed}: a full window, {in_flight} records and {in_flight_bytes} bytes (I4)"
            );
            assert!(
                !session.is_isolating() || (count == 1 && in_flight == 0),
                "seed {seed}: {records:?} is not alone"
            );
        }
        self.frames.push_back((records.end, count, bytes));
        self.frame_records_last = self.frame_records_last.max(count);
        self.frame_bytes_max = self.frame_bytes_max.max(bytes);
        self.used_at = now;
        for record in records {
            self.sent[record as usize] += 1;
        }
    }

    pub fn taken(&mut self, to: u64) {
        self.taken_to = self.taken_to.max(to);
    }

    /// The peer handles a frame: on each connection from what was confirmed on, without a gap.
    pub fn handles(&mut self, records: Range<u64>, bytes: u64) {
        let seed = self.seed;
        assert_eq!(
            records.start, self.next,
            "seed {seed}: a gap or a turn (I3)"
        );
        self.next = records.end;
        for record in records.clone() {
            let times = &mut self.handled[record as usize];
            self.repeats += u64::from(*times > 0);
            *times += 1;
        }
        if self.handled[records.start as usize] > 1 {
            self.repeat_bytes += bytes;
        }
        self.advance();
        let keeps_place = self.rules.confirm == Confirm::Place;
        assert!(
            !keeps_place || self.repeats == 0,
            "seed {seed}: {records:?} kept twice"
        );
        // What one break costs, not what all of them cost together.
        if self.rules.confirm != Confirm::Written {
            let most = self.rules.window_records_max + self.frame_records_last;
            let most_bytes = self.rules.window_bytes_max + self.frame_bytes_max;
            assert!(
                self.repeats <= most && self.repeat_bytes <= most_bytes,
                "seed {seed}: one break repeated {} records, {} bytes",
                self.repeats,
                self.repeat_bytes
            );
        }
    }

    pub fn fails_over(&mut self, record: u64) {
        self.failed_over.push(record);
        self.advance();
    }

    fn advance(&mut self) {
        while self
            .handled
            .get(self.prefix as usize)
            .is_some_and(|n| *n > 0)
            || self.failed_over.contains(&self.prefix)
        {
            self.prefix += 1;
        }
    }

    /// Nothing is confirmed that the peer, or for `written` the kernel, does not have (I1).
    pub fn confirms(&self, session: &Session) {
        let confirmed = session.confirmed().0;
        let have = match self.rules.confirm {
            Confirm::Written => self.taken_to,
            Confirm::Pong | Confirm::Message | Confirm::Place => self.prefix,
        };
        let seed = self.seed;
        assert!(
            confirmed <= have,
            "seed {seed}: confirmed below {confirmed}, there below {have} (I1)"
        );
    }

    /// A line that fell silent is left in time (I4).
    pub fn leaves(&self, now: Duration, silent_since: Option<Duration>) {
        let Some(since) = silent_since else { return };
        let on = now.saturating_sub(since.max(self.used_at));
        assert!(
            on <= self.silence_max,
            "seed {}: {on:?} on a silent line (I4)",
            self.seed
        );
    }

    /// The end of a run that carried everything.
    pub fn ends(&self, session: &Session, poisons: &[u64]) {
        let seed = self.seed;
        let records = self.sent.len() as u64;
        assert_eq!(session.confirmed().0, records, "seed {seed}: not confirmed");
        match self.rules.confirm {
            Confirm::Written => assert_eq!(self.taken_to, records, "seed {seed}: not written"),
            Confirm::Pong | Confirm::Message | Confirm::Place => {
                assert_eq!(self.prefix, records, "seed {seed}: lost (I1)");
                assert_eq!(self.failed_over, poisons, "seed {seed}: exactly the poison");
            }
        }
        self.accounts(session);
    }

    /// The session's account is what was really sent, and sent twice (I2).
    pub fn accounts(&self, session: &Session) {
        let seed = self.seed;
        let account = session.account();
        let sent: u64 = self.sent.iter().map(|n| u64::from(*n)).sum();
        let again = self.sent.iter().map(|n| u64::from(n.saturating_sub(1)));
        assert_eq!(account.sent, sent, "seed {seed}: sent (I2)");
        assert_eq!(
            account.resent,
            again.sum::<u64>(),
            "seed {seed}: again (I2)"
        );
        let reconnects = self.connections.saturating_sub(1);
        assert_eq!(account.reconnects, reconnects, "seed {seed}: reconnects");
        if self.restarted {
            return; // what was handled was sent by others as well
        }
        let twice = self.handled.iter().zip(&self.sent).find(|(h, s)| h > s);
        assert_eq!(twice, None, "seed {seed}: handled more often than sent");
    }
}
