//! The delivery session: the one state machine that carries a journal to one peer, in both directions.
//!
//! Owns what is in flight, what is confirmed (I1), what is sent again after a break and in which order
//! (I3), every deadline of a connection, back-off, and the isolation of a record that kills its peer.
//! Never does I/O, reads a clock or touches a record's bytes: a shell (`client`, `server`) tells it
//! events with the time since its own start, and does what [`Session::next`] says.
//!
//! # How a shell drives it
//!
//! ```text
//! loop {
//!     match session.next(now, room, marks) {
//!         Dial   → connect; then session.connected(now) or session.dial_failed(now, why)
//!         Send   → read the journal at order.from, order.cut(&chunk), write it, session.sent(now, …)
//!         Ping   → queue a Ping with this payload
//!         Close  → queue a Close
//!         Drop   → drop the socket; the session knows already
//!         Poison → give the record to the failover, then session.settled(now)
//!         Wait   → write out, read, sleep until `until`, or until the journal has more
//!         Done, Fail → leave
//!     }
//! }
//! ```
//!
//! `room` is how many bytes the shell's output buffer still takes; with 0 the session sends nothing
//! and only minds its deadlines. After every write the shell calls [`Session::written`], and before
//! every `next` it says by [`Session::leaving`] whether what was written moves, and where
//! [`Session::is_overdue`] what has come and was not read yet; what the peer says comes in by
//! [`Session::pong`], [`Session::subscribed`], [`Session::replied`], [`Session::counted`],
//! [`Session::acknowledged`], [`Session::heard`]; an end that the shell sees (reset, end of file, Close)
//! by [`Session::broken`], one that it makes because the peer talks nonsense by [`Session::offended`].
//!
//! A subscriber that was accepted is the same session with [`Rules::accepted`]: it is `connected` once,
//! confirms by `written`, and is over when the connection breaks. It starts at the position it is given.

use std::collections::VecDeque;
use std::time::Duration;

use crate::journal::Position;

mod cut;
mod events;
mod next;
mod ramp;
#[cfg(test)]
mod tests;

pub use cut::{Order, Piece};
use ramp::Ramp;

/// Bytes of a Ping's payload: a nonce of the connection and a sequence number.
pub const PING_BYTES: usize = 16;
/// Breaks without progress after which records are sent one by one.
const BREAKS_BEFORE_ISOLATION: u32 = 2;
/// Breaks with one and the same record alone in flight after which it is poison, where the peer has
/// not been seen to break for other reasons.
const BREAKS_ALONE_MIN: u32 = 3;
/// Longest that a connection must stand without a record in flight before a suspect is tried on it.
const CONTROL_MAX: Duration = Duration::from_secs(1);
/// Most that breaks without a culprit add to [`BREAKS_ALONE_MIN`].
const DOUBT_MAX: u32 = 9;
/// Breaks without a culprit are forgotten when none has come for so long.
const DOUBT_LASTS: Duration = Duration::from_secs(600);
/// Pings that go out before a connection is given up, spread over the timeout.
const REPINGS: u32 = 3;
/// Unanswered probes in a row, before the first success, after which the peer is refused.
const PROBES_UNANSWERED_MAX: u32 = 3;
/// Longest wait for the answer to a probe.
const PROBE_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a peer that keeps its place to say it.
pub const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest `Retry-After` that is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Most unanswered Pings; beyond, only the one before giving up goes out.
const MARKS_MAX: usize = 1024;
/// Most bytes between two Pings, so that a slow peer shows progress within a confirm timeout.
const PING_SPACING_BYTES_MAX: u64 = 256 * 1024;

/// What confirms a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// The local kernel took it.
    Written,
    /// The Pong to a later Ping.
    Pong,
    /// A message of the peer.
    Message,
    /// The peer's place: where it says that it goes on, at the beginning of each connection, and what it
    /// acknowledges later.
    Place,
}

/// What a session goes by; every bound has its name here (I4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Dial, and dial again after a break. Otherwise the peer was accepted and a break is the end.
    pub dials: bool,
    /// What confirms a record.
    pub confirm: Confirm,
    /// Most records in flight (one frame more where a frame holds several).
    pub window_records_max: u64,
    /// Most payload bytes in flight (one frame more).
    pub window_bytes_max: u64,
    /// Longest time in which nothing of what is to be written moves.
    pub write_timeout: Duration,
    /// Longest time in which nothing of what is in flight moves or is confirmed.
    pub confirm_timeout: Duration,
    /// Longest wait for the peer's Close.
    pub close_timeout: Duration,
    /// A Ping goes out when the peer was silent for so long; zero: never.
    pub ping_interval: Duration,
    /// Shortest time between two Pings on a line that carries little.
    pub ping_gap: Duration,
    /// Bound of the first wait before dialling again.
    pub backoff_min: Duration,
    /// Bound of every wait before dialling again.
    pub backoff_max: Duration,
}

impl Rules {
    /// Rules of a subscriber that was accepted.
    pub fn accepted() -> Self {
        Self {
            dials: false,
            confirm: Confirm::Written,
            ..Self::default()
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            dials: true,
            confirm: Confirm::Pong,
            window_records_max: 16_384,
            window_bytes_max: 8 << 20,
            write_timeout: Duration::from_secs(30),
            confirm_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(20),
            ping_gap: Duration::from_millis(10),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
        }
    }
}

/// What the shell is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connect.
    Dial {
        /// Read the credentials again first: they were refused.
        reread: bool,
    },
    /// Write frames from the journal.
    Send(Order),
    /// Write a Ping with this payload.
    Ping([u8; PING_BYTES]),
    /// Write a Close with code 1000: everything is confirmed.
    Close,
    /// Drop the connection without ceremony: it is given up.
    Drop(GivenUp),
    /// Bring a record to the failover; no connection survives it.
    Poison {
        /// The record.
        position: Position,
        /// Breaks of connections on which it was alone in flight.
        breaks: u32,
    },
    /// Nothing to do before an event.
    Wait(Wait),
    /// Everything is confirmed and the connection is closed; or an accepted peer is gone.
    Done,
    /// The run cannot go on.
    Fail(Failure),
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Call `next` again at this time at the latest.
    pub until: Option<Duration>,
    /// Call `next` again when the journal has grown or was closed.
    pub records: bool,
    /// Write out at once what is buffered: nothing comes before an answer to it.
    pub flush: bool,
}

/// Why the session gave a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// The probe was not answered.
    #[error(
        "the peer did not answer the Ping at connect with its payload ({wrong_pongs} other Pongs)"
    )]
    ProbeUnanswered {
        /// Pongs with other payloads.
        wrong_pongs: u32,
    },
    /// `confirm_timeout` passed.
    #[error("nothing more was taken or confirmed within confirm_timeout, a second Ping included")]
    ConfirmTimeout,
    /// `write_timeout` passed.
    #[error("the connection took no byte within write_timeout")]
    WriteTimeout,
    /// It did not say where to go on.
    #[error("the receiver did not say `subscribe` within {SUBSCRIBE_TIMEOUT:?}")]
    NeverSubscribed,
    /// The peer was silent.
    #[error("the peer is silent: a keep-alive Ping was not answered within confirm_timeout")]
    Silent,
}

/// Why the run cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused for good before the first success; the peer's words.
    Refused(String),
    /// The peer answers no Ping, so that nothing can be confirmed by Pongs.
    NoPongs {
        /// Pongs with other payloads came instead.
        wrong_pongs: u32,
    },
    /// The peer does not say where to go on.
    NoPlace,
}

/// Why a connection could not be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialFailure {
    /// What happened, at which layer, without secrets.
    pub message: String,
    /// Dialling again does not help unless someone changes something.
    pub permanent: bool,
    /// Credentials were refused, ours (401, 403, 407 of a proxy, a certificate) or the peer's
    /// certificate: what was read before may be old.
    pub unauthorized: bool,
    /// The peer asked to wait so long.
    pub retry_after: Option<Duration>,
}

/// The session's account (I2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Records written, those sent again included.
    pub sent: u64,
    /// Records that were written more than once.
    pub resent: u64,
    /// Connections after the first.
    pub reconnects: u64,
}

/// Where the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down {
        dial_at: Duration,
    },
    Dialing,
    /// Nothing counts before the peer says where to go on.
    Greeting {
        since: Duration,
    },
    /// The probe is out (or about to go out); nothing counts before its answer.
    Probing {
        since: Duration,
        sent: bool,
    },
    Open,
    Closing {
        since: Duration,
    },
    Poisoned {
        told: bool,
    },
    Over,
}

/// A Ping that was not answered: its Pong confirms everything below `to`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    sequence: u64,
    to: Position,
    bytes: u64,
}

/// What is known of the present connection only.
#[derive(Debug, Default)]
struct Connection {
    nonce: u64,
    sequence: u64,
    /// Unanswered Pings, oldest first; bounded by the Pings that fit a window.
    marks: VecDeque<Mark>,
    /// Unconfirmed frames, for confirmation by the peer's messages: where each ends, and the bytes
    /// sent up to there. Bounded by the window.
    frames: VecDeque<(Position, u64)>,
    /// Frames that the peer's messages confirmed.
    frames_confirmed: u64,
    pinged_to: Position,
    pinged_bytes: u64,
    pinged_at: Option<Duration>,
    /// Bytes sent, and how many of them are confirmed.
    bytes_sent: u64,
    bytes_confirmed: u64,
    ramp: Ramp,
    /// Since when the kernel takes nothing.
    blocked_since: Option<Duration>,
    /// Some of the records sent may still be on this side of the line.
    leaving: bool,
    /// When bytes of them were last seen to leave.
    moved_at: Duration,
    written_to: Position,
    /// The last confirmation, or when the first unconfirmed record was sent.
    progress_at: Duration,
    repings: u32,
    heard_at: Duration,
    keepalive_at: Option<Duration>,
    /// The probe is answered, and what follows is the control.
    probe_answered: bool,
    wrong_pongs: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    rules: Rules,
    random: fastrand::Rng,
    state: State,
    connection: Connection,
    /// Everything below is confirmed (I1).
    confirmed: Position,
    /// The next record to send on this connection.
    sent: Position,
    /// The furthest that was ever sent.
    high: Position,
    failures: u32,
    connected_once: bool,
    reread: bool,
    probes_unanswered: u32,
    probe_answered_once: bool,
    failure: Option<Failure>,
    /// Breaks since the last progress, of connections that had answered the probe.
    breaks: u32,
    /// Breaks with the record at `confirmed` alone in flight.
    breaks_alone: u32,
    /// The furthest that was in flight at one of `breaks`.
    suspects_to: Position,
    /// Breaks that are not explained yet, and the furthest that was in flight at one of them.
    unexplained: u32,
    unexplained_to: Position,
    /// How long the suspect's last connection stood with it in flight. The next one must stand as long
    /// without it: a peer that dies anyway convicts nobody.
    control: Duration,
    /// Breaks without anything in flight, or of which every suspect was confirmed later: the peer breaks
    /// for reasons of its own, and it takes more than three to convict a record.
    doubt: u32,
    doubted_at: Duration,
    /// Records below are sent one by one.
    isolate_to: Position,
    account: Account,
}

impl Session {
    /// A session that carries everything from `from` on. `seed` feeds nonces and jitter.
    pub fn new(rules: Rules, from: Position, seed: u64) -> Self {
        Self {
            rules,
            random: fastrand::Rng::with_seed(seed),
            state: State::Down {
                dial_at: Duration::ZERO,
            },
            connection: Connection::default(),
            confirmed: from,
            sent: from,
            high: from,
            failures: 0,
            connected_once: false,
            reread: false,
            probes_unanswered: 0,
            probe_answered_once: false,
            failure: None,
            breaks: 0,
            breaks_alone: 0,
            suspects_to: from,
            unexplained: 0,
            unexplained_to: from,
            control: Duration::ZERO,
            doubt: 0,
            doubted_at: Duration::ZERO,
            isolate_to: from,
            account: Account::default(),
        }
    }

    /// Everything below is confirmed.
    pub fn confirmed(&self) -> Position {
        self.confirmed
    }

    /// The next record to send on this connection.
    pub fn position(&self) -> Position {
        self.sent
    }

    /// Records in flight on this connection.
    pub fn in_flight(&self) -> u64 {
        self.sent.since(self.confirmed)
    }

    /// Whether records are sent one by one, because connections broke without progress.
    pub fn is_isolating(&self) -> bool {
        self.confirmed < self.isolate_to
    }

    /// Whether records can be sent now.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether all is confirmed and only the peer's Close is awaited.
    pub fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    /// The account so far.
    pub fn account(&self) -> Account {
        self.account
    }

    /// When the next dial is due, for a message to people; `None` unless the line is down.
    pub fn dials_at(&self) -> Option<Duration> {
        match self.state {
            State::Down { dial_at } => Some(dial_at),
            _ => None,
        }
    }
}
