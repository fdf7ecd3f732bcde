//! A push that speaks `wirefall.v1`: what its receiver asks, what it is told, what its acks confirm.
//!
//! Owns the sender's side of one connection after the other, and how far back the journal must be kept
//! for a receiver that crashes. What a message means `protocol` decides, what is sent and when `session`
//! does. Writes to no socket. Called by `client`.

use std::collections::VecDeque;
use std::time::Duration;

use super::places::{self, Found};
use super::protocol::{From, Kind, MARK_FRAMES_MAX, Reason, Said, Sender, Subscribe, Wrong};
use crate::journal::{Journal, Position};
use crate::sink::framing::{Batching, Carrier, Framing};

/// Most bytes between two marks.
const MARK_BYTES_MAX: u64 = 256 * 1024;
/// Longest silence of a sender that lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct Push {
    stream: String,
    epoch: u64,
    data: Kind,
    frame_is_record: bool,
    sender: Sender,
    /// `hello` was said on this connection.
    begun: bool,
    /// Data frames and bytes of this connection, and how many of them were there at the last mark.
    frames: u64,
    bytes: u64,
    marked: (u64, u64),
    /// What the receiver may acknowledge by: each position that it was given on this connection, oldest
    /// first, with the data frames before it. Bounded by the window.
    given: VecDeque<(Position, u64)>,
    /// A receiver that crashes comes back with this position or a later one, and frames since.
    named: Position,
}

impl Push {
    /// The push of a stream. Its receiver may know positions of an earlier run from `tail` on.
    pub(super) fn new(stream: &str, epoch: u64, framing: &Framing, tail: Position) -> Self {
        let data = match framing.carrier {
            Carrier::Binary => Kind::Binary,
            Carrier::Text | Carrier::Line => Kind::Text,
        };
        Self {
            stream: stream.to_owned(),
            epoch,
            data,
            frame_is_record: matches!(framing.batch, Batching::Record),
            sender: Sender::new(epoch, data, HEARTBEAT),
            begun: false,
            frames: 0,
            bytes: 0,
            marked: (0, 0),
            given: VecDeque::new(),
            named: tail,
        }
    }

    /// A connection is made, on which nothing was said yet.
    pub(super) fn connected(&mut self) {
        self.sender = Sender::new(self.epoch, self.data, HEARTBEAT);
        self.begun = false;
        self.frames = 0;
        self.bytes = 0;
        self.marked = (0, 0);
        self.given.clear();
    }

    /// Everything from here on must be kept: to find the place of a receiver that crashed, its frames are
    /// counted from the position that it names.
    pub(super) fn named(&self) -> Position {
        self.named
    }

    /// Takes a message.
    ///
    /// # Errors
    /// It is wrong, or comes at the wrong time.
    pub(super) fn hear(&mut self, payload: &[u8]) -> Result<Said, Wrong> {
        self.sender.hear(payload)
    }

    /// Answers `subscribe`, with `hello` appended to `out`: where to go on, never behind what is
    /// `confirmed`.
    ///
    /// # Errors
    /// It asks for what no push does.
    pub(super) fn begin(
        &mut self,
        now: Duration,
        journal: &dyn Journal,
        subscribe: &Subscribe,
        confirmed: Position,
        out: &mut Vec<u8>,
    ) -> Result<Found, Wrong> {
        if subscribe.name.is_some() || subscribe.keys.is_some() {
            return Err(Wrong(
                "`name` and `keys` are not for a push, which goes to one receiver, whole"
                    .to_owned(),
            ));
        }
        if matches!(subscribe.from, Some(From::Latest | From::Newest(_))) {
            return Err(Wrong(
                "a push leaves nothing out: `from` is a position, `earliest`, or left out"
                    .to_owned(),
            ));
        }
        let mut start = match subscribe.from {
            None | Some(From::Earliest) => (confirmed, true, Some(0)),
            _ => places::start(journal, subscribe, Some(confirmed), self.frame_is_record),
        };
        if start.0 < confirmed {
            // It comes back behind what it, or the failover, has taken: that is over.
            let lost = start.1.then(|| confirmed.since(start.0));
            start = (confirmed, false, lost.or(start.2));
        }
        let head = journal.marks().borrow().durable;
        self.sender.hello(now, &self.stream, start, head, out);
        self.begun = true;
        self.given.push_back((start.0, 0));
        Ok(start)
    }

    /// Most data frames that may go out before a mark.
    pub(super) fn frames_max(&self) -> u64 {
        MARK_FRAMES_MAX
            .saturating_sub(self.frames - self.marked.0)
            .max(1)
    }

    /// These went out.
    pub(super) fn sent(&mut self, frames: u64, bytes: u64) {
        self.frames += frames;
        self.bytes += bytes;
    }

    /// Whether a mark must not wait for what is written together.
    pub(super) fn is_mark_due(&self) -> bool {
        self.frames - self.marked.0 >= MARK_FRAMES_MAX
            || self.bytes - self.marked.1 >= MARK_BYTES_MAX
    }

    /// Appends a mark at `sent`, where data frames came since the last one.
    pub(super) fn mark(&mut self, now: Duration, sent: Position, out: &mut Vec<u8>) {
        if self.frames == self.marked.0 {
            return;
        }
        self.sender.mark(sent, out);
        self.sender.marked_at(now, sent);
        self.give(sent);
    }

    /// The frame that begins at `position` goes out taken apart: appends the mark that says so.
    pub(super) fn mark_apart(&mut self, now: Duration, position: Position, out: &mut Vec<u8>) {
        self.sender.mark_apart(now, position, out);
        self.give(position);
    }

    fn give(&mut self, position: Position) {
        self.marked = (self.frames, self.bytes);
        self.given.push_back((position, self.frames));
    }

    /// How many data frames of this connection the receiver has acknowledged, if it has since this was
    /// asked last.
    ///
    /// # Errors
    /// More than were sent, all below `sent`.
    pub(super) fn acked(&mut self, sent: Position) -> Result<Option<u64>, Wrong> {
        let Some(steps) = self.sender.take_ack() else {
            return Ok(None);
        };
        if steps.position > sent {
            return Err(Wrong::beyond());
        }
        let given = self.given.iter().rfind(|given| given.0 == steps.position);
        let Some((position, before)) = given.copied() else {
            return Ok(None); // behind an earlier one
        };
        let frames = before + steps.since;
        if frames > self.frames {
            return Err(Wrong::beyond());
        }
        self.given.retain(|given| given.0 >= position);
        self.named = self.named.max(position);
        Ok(Some(frames))
    }

    /// When something has to be said at the latest; `None` before `hello`.
    pub(super) fn heartbeat_at(&self) -> Option<Duration> {
        self.begun.then(|| self.sender.heartbeat_at())
    }

    /// Appends a sign of life where it is time for one.
    pub(super) fn heartbeat(
        &mut self,
        now: Duration,
        sent: Position,
        head: Position,
        out: &mut Vec<u8>,
    ) {
        if self.heartbeat_at().is_none_or(|at| now < at) {
            return;
        }
        match self.frames > self.marked.0 {
            true => self.mark(now, sent, out),
            false => self
                .sender
                .heartbeat(now, self.sender.marked(), head.max(sent), out),
        }
    }

    /// Appends the last word.
    pub(super) fn bye(&mut self, now: Duration, sent: Position, reason: Reason, out: &mut Vec<u8>) {
        if self.begun {
            self.mark(now, sent, out);
            self.sender.bye(now, reason, out);
        }
    }
}

#[cfg(test)]
mod tests;
