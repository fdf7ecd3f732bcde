//! What the session says to do next, and every deadline of a connection.

use std::time::Duration;

use super::{
    Confirm, Failure, GivenUp, MARKS_MAX, Mark, Order, PING_BYTES, PING_SPACING_BYTES_MAX,
    PROBE_TIMEOUT_MAX, REPINGS, SUBSCRIBE_TIMEOUT, Session, State, Step, Wait,
};
use crate::journal::{Marks, Position};

impl Session {
    /// What to do next. `room` is how many bytes the output buffer still takes.
    pub fn next(&mut self, now: Duration, room: u64, marks: Marks) -> Step {
        if let Some(failure) = self.failure.take() {
            self.state = State::Over;
            return Step::Fail(failure);
        }
        match self.state {
            State::Over => Step::Done,
            State::Dialing | State::Poisoned { told: true } => Step::Wait(Wait {
                until: None,
                records: false,
                flush: false,
            }),
            State::Poisoned { told: false } => {
                self.state = State::Poisoned { told: true };
                Step::Poison {
                    position: self.confirmed,
                    breaks: self.breaks_alone,
                }
            }
            State::Down { dial_at } => self.down(now, dial_at, marks),
            State::Greeting { since } => self.greeting(now, since),
            State::Probing { since, sent } => self.probing(now, room, since, sent),
            State::Open => self.open(now, room, marks),
            State::Closing { since } => self.closing(now, since),
        }
    }

    /// Whether no record will come any more and all are confirmed.
    fn at_end(&self, marks: Marks) -> bool {
        marks.closed && self.confirmed >= marks.head
    }

    fn down(&mut self, now: Duration, dial_at: Duration, marks: Marks) -> Step {
        if self.at_end(marks) {
            self.state = State::Over;
            return Step::Done;
        }
        if now < dial_at {
            return Step::Wait(Wait {
                until: Some(dial_at),
                records: true,
                flush: false,
            });
        }
        self.state = State::Dialing;
        Step::Dial {
            reread: std::mem::take(&mut self.reread),
        }
    }

    fn greeting(&mut self, now: Duration, since: Duration) -> Step {
        let deadline = since + SUBSCRIBE_TIMEOUT;
        if now >= deadline {
            self.count_unanswered(Failure::NoPlace);
            return self.give_up(now, GivenUp::NeverSubscribed);
        }
        Step::Wait(Wait {
            until: Some(deadline),
            records: false,
            flush: true,
        })
    }

    fn probing(&mut self, now: Duration, room: u64, since: Duration, sent: bool) -> Step {
        if now < since {
            return Step::Wait(Wait {
                until: Some(since),
                records: false,
                flush: true,
            });
        }
        if !sent && room > 0 {
            self.state = State::Probing { since, sent: true };
            return self.ping(now);
        }
        let timeout = self.probe_timeout();
        if now >= since + timeout {
            return self.probe_unanswered(now);
        }
        let again = self.reping_at(since, timeout).filter(|_| room > 0 && sent);
        if again.is_some_and(|at| now >= at) {
            self.connection.repings += 1;
            return self.ping(now);
        }
        Step::Wait(Wait {
            until: Some(again.unwrap_or(since + timeout)),
            records: false,
            flush: true,
        })
    }

    fn probe_unanswered(&mut self, now: Duration) -> Step {
        let wrong_pongs = self.connection.wrong_pongs;
        // Pongs that nobody asked for are legal, so they make it no more hopeless than silence does.
        self.count_unanswered(Failure::NoPongs { wrong_pongs });
        self.give_up(now, GivenUp::ProbeUnanswered { wrong_pongs })
    }

    fn give_up(&mut self, now: Duration, why: GivenUp) -> Step {
        self.lose(now);
        Step::Drop(why)
    }

    fn closing(&mut self, now: Duration, since: Duration) -> Step {
        let deadline = since + self.rules.close_timeout;
        if now >= deadline {
            // All is confirmed: a peer that does not answer the Close changes nothing.
            self.state = State::Over;
            return Step::Done;
        }
        Step::Wait(Wait {
            until: Some(deadline),
            records: false,
            flush: true,
        })
    }

    fn open(&mut self, now: Duration, room: u64, marks: Marks) -> Step {
        if let Some(why) = self.expired(now) {
            if why == GivenUp::ConfirmTimeout && self.is_mute() {
                self.lose_mute(now);
                return Step::Drop(why);
            }
            return self.give_up(now, why);
        }
        if self.at_end(marks) {
            self.state = State::Closing { since: now };
            return Step::Close;
        }
        let available = marks.durable > self.sent;
        if room > 0 {
            if self.next_reping_at().is_some_and(|at| now >= at) {
                self.connection.repings += 1;
                return self.ping(now);
            }
            if self.keepalive_due(now) {
                self.connection.keepalive_at = Some(now);
                return self.ping(now);
            }
            let order = self.order(room, marks.durable);
            if self.ping_due(now, order.is_some()) {
                return self.ping(now);
            }
            if let Some(order) = order {
                return Step::Send(order);
            }
            if available {
                self.connection.ramp.limited();
            }
        }
        Step::Wait(Wait {
            until: self.wake_at(room),
            records: !available,
            // The window is full: only an answer to what is buffered opens it.
            flush: available && room > 0,
        })
    }

    /// What may be sent under the window and below the watermark, if anything.
    fn order(&self, room: u64, durable: Position) -> Option<Order> {
        let in_flight = self.in_flight();
        let (records_max, bytes_max) = match self.rules.confirm {
            // The output buffer alone bounds what the kernel has not taken.
            Confirm::Written => (u64::MAX, room),
            Confirm::Pong | Confirm::Message | Confirm::Place => {
                let (records, bytes) = self.window();
                let bytes_in_flight = self.connection.bytes_sent - self.connection.bytes_confirmed;
                let bytes_left = bytes.saturating_sub(bytes_in_flight);
                (records.saturating_sub(in_flight), bytes_left.min(room))
            }
        };
        let records_max = records_max.min(durable.since(self.sent));
        (records_max > 0 && bytes_max > 0).then_some(Order {
            from: self.sent,
            records_max,
            bytes_max,
            alone: self.is_isolating(),
        })
    }

    /// How much may be in flight now: records and bytes.
    fn window(&self) -> (u64, u64) {
        if self.is_isolating() {
            (1, u64::MAX)
        } else {
            self.connection.ramp.window()
        }
    }

    /// Whether what was sent since the last Ping asks for one: every quarter of a window, and as soon
    /// as nothing follows, so that nothing waits for more to come.
    fn ping_due(&self, now: Duration, more_follows: bool) -> bool {
        let connection = &self.connection;
        let records = self.sent.since(connection.pinged_to);
        if self.rules.confirm != Confirm::Pong || records == 0 || self.marks_full() {
            return false;
        }
        let (window_records, window_bytes) = self.window();
        let bytes = connection.bytes_sent - connection.pinged_bytes;
        records >= (window_records / 4).max(1)
            || bytes >= (window_bytes / 4).clamp(1, PING_SPACING_BYTES_MAX)
            || (!more_follows && connection.marks.is_empty())
            || self.gap_ends_at().is_some_and(|end| now >= end)
    }

    fn marks_full(&self) -> bool {
        self.connection.marks.len() >= MARKS_MAX
    }

    fn gap_ends_at(&self) -> Option<Duration> {
        let pinged_at = self.connection.pinged_at?;
        Some(pinged_at + self.rules.ping_gap)
    }

    /// Before a connection is given up, Pings go out once more: a peer may answer only the latest, and
    /// a Pong may have been lost on its way through a gateway.
    fn next_reping_at(&self) -> Option<Duration> {
        let since = self.quiet_since(self.connection.progress_at);
        self.awaits_confirmation()
            .then(|| self.reping_at(since, self.rules.confirm_timeout))
            .flatten()
    }

    fn reping_at(&self, since: Duration, timeout: Duration) -> Option<Duration> {
        let next = self.connection.repings + 1;
        (next <= REPINGS).then(|| since + timeout * next / (REPINGS + 1))
    }

    fn keepalive_due(&self, now: Duration) -> bool {
        let interval = self.rules.ping_interval;
        !interval.is_zero()
            && self.connection.keepalive_at.is_none()
            && now >= self.connection.heard_at + interval
    }

    /// Since when nothing is known to go on, where something did at `since`. A line that moves is only
    /// slow: what is still on its way cannot be answered.
    fn quiet_since(&self, since: Duration) -> Duration {
        since.max(self.connection.moved_at)
    }

    fn awaits_confirmation(&self) -> bool {
        self.in_flight() > 0 && self.rules.confirm != Confirm::Written
    }

    /// Whether a deadline has passed, so that [`Session::next`] would give the connection up. A shell
    /// first tells what has come meanwhile: one that was held up must not blame the peer.
    pub fn is_overdue(&self, now: Duration) -> bool {
        match self.state {
            State::Open => self.expired(now).is_some(),
            State::Greeting { since } => now >= since + SUBSCRIBE_TIMEOUT,
            State::Probing { since, .. } => now >= since + self.probe_timeout(),
            _ => false,
        }
    }

    fn probe_timeout(&self) -> Duration {
        self.rules.confirm_timeout.min(PROBE_TIMEOUT_MAX)
    }

    /// The deadline that has passed, if one has.
    fn expired(&self, now: Duration) -> Option<GivenUp> {
        let (deadline, why) = self.deadline()?;
        (now >= deadline).then_some(why)
    }

    /// The first time at which the connection is given up if nothing happens.
    fn deadline(&self) -> Option<(Duration, GivenUp)> {
        let connection = &self.connection;
        let rules = &self.rules;
        let write = connection
            .blocked_since
            .map(|since| self.quiet_since(since) + rules.write_timeout)
            .map(|at| (at, GivenUp::WriteTimeout));
        let confirm = self
            .awaits_confirmation()
            .then(|| self.quiet_since(connection.progress_at) + rules.confirm_timeout)
            .map(|at| (at, GivenUp::ConfirmTimeout));
        let silent = connection
            .keepalive_at
            .map(|since| self.quiet_since(since) + rules.confirm_timeout)
            .map(|at| (at, GivenUp::Silent));
        let deadlines = [write, confirm, silent];
        deadlines.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// When `next` has something to do although nothing happens.
    fn wake_at(&self, room: u64) -> Option<Duration> {
        let connection = &self.connection;
        let mut wake = self.deadline().map(|(at, _)| at);
        let mut at = |time: Duration| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        if room > 0 {
            self.next_reping_at().into_iter().for_each(&mut at);
            if !self.rules.ping_interval.is_zero() && connection.keepalive_at.is_none() {
                at(connection.heard_at + self.rules.ping_interval);
            }
            let unpinged = self.sent > connection.pinged_to;
            if self.rules.confirm == Confirm::Pong && unpinged && !self.marks_full() {
                self.gap_ends_at().into_iter().for_each(at);
            }
        }
        wake
    }

    /// A Ping whose Pong confirms all that was sent until now.
    fn ping(&mut self, now: Duration) -> Step {
        let connection = &mut self.connection;
        let sequence = connection.sequence;
        connection.sequence += 1;
        if connection.marks.len() >= MARKS_MAX {
            // A later Pong confirms what this one would have.
            connection.marks.pop_front();
        }
        connection.marks.push_back(Mark {
            sequence,
            to: self.sent,
            bytes: connection.bytes_sent,
        });
        connection.pinged_to = self.sent;
        connection.pinged_bytes = connection.bytes_sent;
        connection.pinged_at = Some(now);
        connection.blocked_since.get_or_insert(now);
        let mut payload = [0; PING_BYTES];
        payload[..8].copy_from_slice(&connection.nonce.to_be_bytes());
        payload[8..].copy_from_slice(&sequence.to_be_bytes());
        Step::Ping(payload)
    }
}
