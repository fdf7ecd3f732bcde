//! The sender's side: where a receiver starts, what it is told, and what its acks mean.
//!
//! Owns the decision behind `hello`, the control frames, when a heartbeat is due, and the furthest ack.
//! Knows the journal only by the facts it is given, and moves nothing.

use std::io::Write as _;
use std::time::Duration;

use super::message::{
    Ack, Bye, From, Gap, Heartbeat, Hello, Kind, Mark, Notice, Reason, Request, Subscribe, Wrong,
};
use super::place::{self, Told};
use super::walk::Steps;
use crate::journal::Position;
use crate::sink::framing::push_header;

/// When a receiver is to come again after a restart: soon, but not all in the same moment as the port
/// is opened again.
const RESTART_RETRY: Duration = Duration::from_millis(300);

/// What the journal and the stream are like when a receiver subscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The life of the numbering.
    pub epoch: u64,
    /// The oldest position that can be read.
    pub tail: Position,
    /// Where the stream ends for readers.
    pub head: Position,
    /// Every data frame carries one record, so that frames can be counted where they are gone.
    pub frame_is_record: bool,
}

/// Where a receiver starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Here.
    At {
        /// The next record to send.
        from: Position,
        /// That is where it was asked for.
        resumed: bool,
        /// Records that are missing before it; `None` where nobody can know.
        lost: Option<u64>,
    },
    /// So many frames, 1 at least, behind a position that is kept: walk there, then ask
    /// [`Start::walked`].
    Behind(Steps),
}

impl Start {
    /// Where `subscribe` starts; `remembered` is the cursor of its name.
    pub fn of(subscribe: &Subscribe, remembered: Option<Position>, facts: Facts) -> Self {
        match &subscribe.from {
            None => match remembered {
                Some(position) => Self::resume(position, false, subscribe, facts),
                None => Self::exactly(facts.head),
            },
            Some(From::Earliest) => Self::exactly(facts.tail),
            Some(From::Latest) => Self::exactly(facts.head),
            Some(From::Newest(newest)) => {
                let start = facts.head.0.saturating_sub(*newest);
                Self::exactly(facts.tail.max(Position(start)))
            }
            Some(From::Position(text)) => match place::read(text, facts.epoch) {
                Told::Position(position) => Self::resume(position, false, subscribe, facts),
                Told::Apart(position) => Self::resume(position, true, subscribe, facts),
                Told::Foreign => Self::unknown(facts),
            },
        }
    }

    /// Where a walk led: `None` where it came to no end.
    pub fn walked(to: Option<Position>, facts: Facts) -> Self {
        match to {
            Some(position) => Self::exactly(position),
            None => Self::unknown(facts),
        }
    }

    fn exactly(from: Position) -> Self {
        Self::At {
            from,
            resumed: true,
            lost: Some(0),
        }
    }

    /// Nobody can say what is missing: everything that is kept is sent.
    fn unknown(facts: Facts) -> Self {
        Self::At {
            from: facts.tail,
            resumed: false,
            lost: None,
        }
    }

    fn resume(position: Position, apart: bool, subscribe: &Subscribe, facts: Facts) -> Self {
        let since = subscribe.since;
        if position > facts.head {
            return Self::unknown(facts);
        }
        if position >= facts.tail {
            return match since {
                0 => Self::exactly(position),
                _ => Self::Behind(Steps {
                    position,
                    apart,
                    since,
                }),
            };
        }
        // Its frames are gone, and with them what was in each.
        let all_is_counted = since == 0 || facts.frame_is_record;
        if subscribe.keys.is_some() || !all_is_counted {
            return Self::unknown(facts);
        }
        let place = position.plus(since);
        if place > facts.head {
            Self::unknown(facts)
        } else if place >= facts.tail {
            Self::exactly(place)
        } else {
            Self::At {
                from: facts.tail,
                resumed: false,
                lost: Some(facts.tail.since(place)),
            }
        }
    }
}

/// What a message of the receiver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It asks, as it has to do first: [`Sender::hello`] answers.
    Subscribe(Subscribe),
    /// It acknowledges: [`Sender::take_ack`] tells how far.
    Ack,
}

/// What one receiver is told.
#[derive(Debug)]
pub struct Sender {
    epoch: u64,
    data: Kind,
    heartbeat: Duration,
    said_at: Duration,
    /// The last position that the receiver was given.
    marked: Position,
    /// `hello` was said.
    greeted: bool,
    /// The furthest ack that was not taken yet.
    ack: Option<Steps>,
}

impl Sender {
    /// A sender of data frames of the kind `data`, silent for `heartbeat` at most.
    pub fn new(epoch: u64, data: Kind, heartbeat: Duration) -> Self {
        Self {
            epoch,
            data,
            heartbeat,
            said_at: Duration::ZERO,
            marked: Position::default(),
            greeted: false,
            ack: None,
        }
    }

    /// Takes a message of the receiver.
    ///
    /// # Errors
    /// It is wrong, or comes at the wrong time.
    pub fn hear(&mut self, payload: &[u8]) -> Result<Said, Wrong> {
        match (Request::parse(payload)?, self.greeted) {
            (Request::Subscribe(subscribe), false) => Ok(Said::Subscribe(subscribe)),
            (Request::Subscribe(_), true) => Err(Wrong::new("a second `subscribe`")),
            (Request::Ack(_), false) => Err(Wrong::new("`ack` before `subscribe`")),
            (Request::Ack(ack), true) => {
                // A mark is behind all frames before it, so the later position is the further place.
                self.ack = self.ack.max(self.steps_of(&ack));
                Ok(Said::Ack)
            }
        }
    }

    /// The furthest place that was acknowledged since this was asked last, of this epoch. It must not be
    /// beyond what was sent.
    pub fn take_ack(&mut self) -> Option<Steps> {
        self.ack.take()
    }

    fn steps_of(&self, ack: &Ack) -> Option<Steps> {
        let (position, apart) = match place::read(&ack.position, self.epoch) {
            Told::Position(position) => (position, false),
            Told::Apart(position) => (position, true),
            Told::Foreign => return None,
        };
        Some(Steps {
            position,
            apart,
            since: ack.since,
        })
    }

    /// The last position that the receiver was given.
    pub fn marked(&self) -> Position {
        self.marked
    }

    /// Appends `hello` to `out`, as a frame.
    pub fn hello(
        &mut self,
        now: Duration,
        stream: &str,
        start: (Position, bool, Option<u64>),
        head: Position,
        out: &mut Vec<u8>,
    ) {
        let (from, resumed, lost) = start;
        self.greeted = true;
        self.marked = from;
        let hello = Hello {
            stream: stream.to_owned(),
            epoch: place::write_epoch(self.epoch),
            head: place::write(self.epoch, head.max(from)),
            from: place::write(self.epoch, from),
            resumed,
            lost,
            data: self.data,
            heartbeat_ms: self.heartbeat.as_millis() as u64,
        };
        self.say(now, &Notice::Hello(hello), out);
    }

    /// Appends a mark: all data frames before it are below `position`. Tells nobody that it was said:
    /// [`marked_at`](Self::marked_at) does, once it is with the kernel or kept for it.
    pub fn mark(&self, position: Position, out: &mut Vec<u8>) {
        // As `Notice::Mark` is written, without a detour: there is one behind every write.
        let start = out.len();
        push_header(out, self.data.other().opcode(), 0);
        let Self { epoch, .. } = self;
        let Position(number) = position;
        write!(out, r#"{{"type":"mark","position":"{epoch:x}.{number}"}}"#)
            .expect("a vector takes everything");
        out[start + 1] = (out.len() - start - 2) as u8;
    }

    /// Appends a mark at `position`, the beginning of a frame whose records go out each in a frame of its
    /// own: a place behind it is found again only where that is known.
    pub fn mark_apart(&mut self, now: Duration, position: Position, out: &mut Vec<u8>) {
        self.marked = position;
        let position = place::write_apart(self.epoch, position);
        self.say(now, &Notice::Mark(Mark { position }), out);
    }

    /// A mark at `position` was said.
    pub fn marked_at(&mut self, now: Duration, position: Position) {
        self.marked = position;
        self.said_at = now;
    }

    /// Appends a gap: `lost` records were not sent, and the next is at `from`.
    pub fn gap(&mut self, now: Duration, from: Position, lost: Option<u64>, out: &mut Vec<u8>) {
        self.marked = from;
        let from = place::write(self.epoch, from);
        self.say(now, &Notice::Gap(Gap { from, lost }), out);
    }

    /// Appends a mark at `sent` where the receiver has none: its place has moved without a frame.
    pub fn settle(&mut self, now: Duration, sent: Position, out: &mut Vec<u8>) {
        if sent > self.marked {
            self.mark(sent, out);
            self.marked_at(now, sent);
        }
    }

    /// Appends what has to be said at the latest when [`heartbeat_at`](Self::heartbeat_at) has come: a
    /// mark, which is a sign of life too, or a heartbeat.
    pub fn heartbeat(&mut self, now: Duration, sent: Position, head: Position, out: &mut Vec<u8>) {
        if sent > self.marked {
            return self.settle(now, sent, out);
        }
        let head = place::write(self.epoch, head.max(sent));
        self.say(now, &Notice::Heartbeat(Heartbeat { head }), out);
    }

    /// When it has been silent for too long.
    pub fn heartbeat_at(&self) -> Duration {
        self.said_at + self.heartbeat
    }

    /// Appends the last word.
    pub fn bye(&mut self, now: Duration, reason: Reason, out: &mut Vec<u8>) {
        let retry_after = match reason {
            Reason::Restart => Some(RESTART_RETRY),
            Reason::Behind => Some(Duration::ZERO),
            Reason::End | Reason::Unknown => None,
        };
        let retry_after_ms = retry_after.map(|after| after.as_millis() as u64);
        let bye = Bye {
            reason,
            retry_after_ms,
        };
        self.say(now, &Notice::Bye(bye), out);
    }

    fn say(&mut self, now: Duration, notice: &Notice, out: &mut Vec<u8>) {
        self.said_at = now;
        let text = notice.encode();
        push_header(out, self.data.other().opcode(), text.len());
        out.extend_from_slice(text.as_bytes());
    }
}
