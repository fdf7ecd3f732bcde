//! One connection: the shell's buffer, the kernel's, and what is on its way, both ways.
//!
//! Owns bytes and times. Messages arrive in order, when their last byte does; a stall puts all of it
//! off, and a silent connection takes bytes and says nothing for ever, with no reset and no close.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use wirefall::journal::Position;

/// What the kernel holds.
const KERNEL_BYTES: u64 = 3_000;

/// How bad things are. Not worse than so: a record that is alone in flight at three breaks by mere
/// chance, on connections that stood as long without it, is taken for poison, and that is the rule.
pub struct Faults {
    /// Chances in thousandths, at each event of the peer.
    pub reset: u32,
    pub silence: u32,
    pub lost_pong: u32,
    pub garbled_pong: u32,
    pub doubled_pong: u32,
    /// A Pong that nobody asked for.
    pub own_pong: u32,
    /// A reply that is nonsense.
    pub garbled_reply: u32,
    /// At each write.
    pub stall: u32,
    /// At each dial, and the kinds of refusal that come after the first success.
    pub refused: u32,
    /// At each wait: the process is held up, for seconds.
    pub held_up: u32,
    /// At each wait: the session dies, where the peer keeps its place.
    pub crash: u32,
    pub latency_max_ms: u64,
    /// How late a timer may be.
    pub late_max_ms: u64,
    /// How many bytes a millisecond the line carries there.
    pub bytes_per_ms: u64,
    /// After this time all is well, so that every run can end.
    pub calm_at: Duration,
}

/// What a shell writes.
#[derive(Clone, Debug)]
pub enum Sent {
    /// One frame.
    Records(Range<u64>),
    Ping(Vec<u8>),
    Close,
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Back {
    Pong(Vec<u8>),
    /// A message that confirms the next frame.
    Reply,
    /// A message that counts the frames of the connection.
    Counted(u64),
    /// A message that names a position.
    Below(u64),
    /// Where the peer goes on.
    Subscribed(u64),
    Close,
    Reset,
}

/// Bytes between the kernel and the peer's machine.
struct Flight {
    start: Duration,
    end: Duration,
    bytes: u64,
}

/// See the module.
#[derive(Default)]
pub struct Connection {
    /// Not yet taken by the kernel: each message with the bytes that are left of it.
    buffer: VecDeque<(Sent, u64)>,
    /// A part of the first is taken.
    begun: bool,
    /// Everything below was taken by the kernel to its last byte.
    pub written_to: Position,
    flights: VecDeque<Flight>,
    arrived: u64,
    line_free_at: Duration,
    /// What had left when the session was told last.
    told: u64,
    there: VecDeque<(Duration, Sent)>,
    back: VecDeque<(Duration, Back)>,
    /// Nothing moves any more, and nobody says so.
    pub silent_since: Option<Duration>,
    /// The peer is gone: what still goes there is lost.
    pub dead: bool,
    /// Frames that the peer has handled on it.
    pub frames_handled: u64,
}

impl Connection {
    pub fn new(position: Position) -> Self {
        Self {
            written_to: position,
            ..Self::default()
        }
    }

    pub fn push(&mut self, sent: Sent, bytes: u64) {
        self.buffer.push_back((sent, bytes));
    }

    pub fn buffered(&self) -> u64 {
        self.buffer.iter().map(|(_, bytes)| bytes).sum()
    }

    pub fn is_drained(&self) -> bool {
        self.buffer.is_empty()
    }

    /// As the client's buffer: none while a part of it is written.
    pub fn room(&self, room_max: u64) -> u64 {
        match self.begun {
            true => 0,
            false => room_max.saturating_sub(self.buffered()),
        }
    }

    fn held(&self) -> u64 {
        self.flights.iter().map(|flight| flight.bytes).sum()
    }

    /// Whether bytes left since the last time, and whether none is left here.
    pub fn leaving(&mut self, now: Duration) -> (bool, bool) {
        self.land(now);
        let under_way: u64 = match (self.silent_since, self.flights.front()) {
            (None, Some(flight)) if flight.start < now => {
                let part =
                    (now - flight.start).as_secs_f64() / (flight.end - flight.start).as_secs_f64();
                (flight.bytes as f64 * part) as u64
            }
            _ => 0,
        };
        let left = self.arrived + under_way;
        let moved = left > self.told;
        self.told = self.told.max(left);
        (moved, self.buffer.is_empty() && self.held() == 0)
    }

    fn land(&mut self, now: Duration) {
        while self.silent_since.is_none()
            && let Some(flight) = self.flights.front()
            && flight.end <= now
        {
            self.arrived += flight.bytes;
            self.flights.pop_front();
        }
    }

    /// When the kernel next takes bytes, if it ever does.
    pub fn writes_at(&self, now: Duration) -> Option<Duration> {
        if self.buffer.is_empty() {
            return None;
        }
        if self.held() < KERNEL_BYTES {
            return Some(now);
        }
        let first = self.flights.front()?;
        self.silent_since.is_none().then_some(first.end.max(now))
    }

    /// The kernel takes up to `bytes_max` bytes, wherever that cuts a message.
    pub fn write(&mut self, now: Duration, bytes_max: u64, bytes_per_ms: u64, latency: Duration) {
        self.land(now);
        let mut left = bytes_max.min(KERNEL_BYTES.saturating_sub(self.held()));
        let start = self.line_free_at.max(now);
        let mut end = start;
        while left > 0
            && let Some((_, rest)) = self.buffer.front_mut()
        {
            let bytes = left.min(*rest);
            *rest -= bytes;
            left -= bytes;
            self.begun = true;
            let from = end;
            end += Duration::from_nanos(bytes * 1_000_000 / bytes_per_ms + 1);
            self.flights.push_back(Flight {
                start: from,
                end,
                bytes,
            });
            if *rest == 0
                && let Some((sent, _)) = self.buffer.pop_front()
            {
                self.begun = false;
                if let Sent::Records(records) = &sent {
                    self.written_to = Position(records.end);
                }
                if self.silent_since.is_none() {
                    let before = self.there.back().map_or(end, |(at, _)| *at);
                    self.there.push_back((before.max(end + latency), sent));
                }
            }
        }
        // A buffer that is begun is written out before it is filled again.
        self.begun |= !self.buffer.is_empty();
        self.line_free_at = end;
    }

    /// Everything that is under way is put off.
    pub fn stall(&mut self, now: Duration, by: Duration) {
        self.flights.iter_mut().for_each(|flight| {
            flight.start += by;
            flight.end += by;
        });
        self.there.iter_mut().for_each(|(at, _)| *at += by);
        self.back.iter_mut().for_each(|(at, _)| *at += by);
        self.line_free_at = self.line_free_at.max(now) + by;
    }

    pub fn fall_silent(&mut self, now: Duration) {
        self.land(now);
        self.silent_since = Some(now);
        self.there.clear();
        self.back.clear();
    }

    /// When the peer has the next message.
    pub fn there_at(&self) -> Option<Duration> {
        self.there.front().map(|(at, _)| *at)
    }

    /// The next message, as the peer reads it.
    pub fn take(&mut self) -> Option<Sent> {
        self.there.pop_front().map(|(_, sent)| sent)
    }

    /// When the shell has the next answer.
    pub fn back_at(&self) -> Option<Duration> {
        self.back.front().map(|(at, _)| *at)
    }

    /// The next answer.
    pub fn hear(&mut self) -> Option<Back> {
        self.back.pop_front().map(|(_, back)| back)
    }

    /// The peer says something that arrives at `at`, or behind what it said before.
    pub fn say(&mut self, at: Duration, back: Back) {
        let before = self.back.back().map_or(at, |(before, _)| *before);
        self.back.push_back((at.max(before), back));
    }
}
