//! The dialogue of a subscriber that speaks `wirefall.v1`: what it asks, what it is told.
//!
//! Owns the sender's side of one session: from `subscribe` to `bye`, marks, heartbeats, acks. What a
//! message means `protocol` decides; here the journal and the names are asked. Writes to no socket.
//! Called by `subscriber`.

use std::time::Duration;

use super::Hub;
use super::names::Held;
use crate::journal::{Journal, Position, Read};
use crate::sink::framing::{Batching, Carrier};
use crate::sink::websocket::protocol::{
    Acked, Facts, Keys, Kind, MARK_RECORDS_MAX, Reason, Request, Sender, Start, Subscribe, Walk,
    Wrong,
};

/// See the module.
pub(super) struct V1 {
    sender: Sender,
    /// What it asked for; `None` before it has.
    session: Option<Asked>,
    /// The furthest ack that was not settled yet, as a position and frames behind it.
    ack: Option<(Position, u64)>,
}

struct Asked {
    keys: Option<Keys>,
    held: Option<Held>,
}

/// A message of the subscriber.
pub(super) enum Said {
    /// It asks, as it has to do first.
    Subscribe(Subscribe),
    /// It acknowledges; [`V1::settle_ack`] tells the names.
    Ack,
}

impl V1 {
    /// A dialogue in which nothing was said yet.
    pub(super) fn new(hub: &Hub) -> Self {
        let data = match hub.plan.framing.carrier {
            Carrier::Binary => Kind::Binary,
            Carrier::Text | Carrier::Line => Kind::Text,
        };
        let epoch = hub.context.journal.epoch();
        Self {
            sender: Sender::new(epoch, data, hub.plan.timing.heartbeat),
            session: None,
            ack: None,
        }
    }

    /// Takes a message.
    ///
    /// # Errors
    /// It is wrong, or comes at the wrong time.
    pub(super) fn hear(&mut self, payload: &[u8]) -> Result<Said, Wrong> {
        match (Request::parse(payload)?, &self.session) {
            (Request::Subscribe(subscribe), None) => Ok(Said::Subscribe(subscribe)),
            (Request::Subscribe(_), Some(_)) => Err(Wrong("a second `subscribe`".to_owned())),
            (Request::Ack(_), None) => Err(Wrong("`ack` before `subscribe`".to_owned())),
            (Request::Ack(ack), Some(_)) => {
                if let Acked::Behind { position, since } = self.sender.acked(&ack) {
                    // A mark is behind all frames before it, so the later position is the further place.
                    self.ack = self.ack.max(Some((position, since)));
                }
                Ok(Said::Ack)
            }
        }
    }

    /// Answers `subscribe`: where the session starts, with `hello` appended to `out`.
    pub(super) fn begin(
        &mut self,
        now: Duration,
        hub: &Hub,
        subscribe: Subscribe,
        out: &mut Vec<u8>,
    ) -> Position {
        let (held, remembered) = match &subscribe.name {
            Some(name) => {
                let (held, remembered) = hub.names.take(name);
                (Some(held), remembered)
            }
            None => (None, None),
        };
        let frame_is_record = matches!(hub.plan.framing.batch, Batching::Record);
        let journal = &*hub.context.journal;
        let (from, resumed, lost) = start(journal, &subscribe, remembered, frame_is_record);
        if let Some(held) = &held {
            hub.names.begin(held, from);
        }
        let head = journal.marks().borrow().durable;
        let start = (from, resumed, lost);
        let stream = &hub.context.pipeline;
        self.sender.hello(now, stream, start, head, out);
        self.session = Some(Asked {
            keys: subscribe.keys,
            held,
        });
        from
    }

    /// Tells the names what was acknowledged of what was sent, all below `sent`.
    ///
    /// # Errors
    /// More was acknowledged.
    pub(super) fn settle_ack(&mut self, hub: &Hub, sent: Position) -> Result<(), Wrong> {
        let (Some((position, since)), Some(asked)) = (self.ack.take(), &self.session) else {
            return Ok(());
        };
        let beyond = || Wrong("`ack` beyond what was sent".to_owned());
        if position > sent {
            return Err(beyond());
        }
        let Some(held) = &asked.held else {
            return Ok(());
        };
        let mut walk = Walk::new(position, since, asked.keys.as_ref());
        let to = match walked(&*hub.context.journal, &mut walk, sent) {
            Walked::To(to) => to,
            Walked::Beyond => return Err(beyond()),
            // Its frames are not kept: the position before them is what is known.
            Walked::Gone => position,
        };
        hub.names.acked(held, to);
        Ok(())
    }

    /// The filter.
    pub(super) fn keys(&self) -> Option<&Keys> {
        self.session.as_ref()?.keys.as_ref()
    }

    /// The name that the session has.
    pub(super) fn held(&self) -> Option<&Held> {
        self.session.as_ref()?.held.as_ref()
    }

    /// When something has to be said at the latest.
    pub(super) fn heartbeat_at(&self) -> Duration {
        self.sender.heartbeat_at()
    }

    /// The control frames.
    pub(super) fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// Appends a mark at `sent` where frames went out, or so many records were passed over that the
    /// place must not be left so far behind.
    pub(super) fn mark_alone(
        &mut self,
        now: Duration,
        sent: Position,
        frames: u64,
        out: &mut Vec<u8>,
    ) {
        if frames > 0 || sent.since(self.sender.marked()) >= MARK_RECORDS_MAX {
            self.sender.settle(now, sent, out);
        }
    }

    /// Appends the last word, with a mark before it where the place has none.
    pub(super) fn bye(&mut self, now: Duration, sent: Position, reason: Reason, out: &mut Vec<u8>) {
        if self.session.is_some() {
            self.sender.settle(now, sent, out);
            self.sender.bye(now, reason, out);
        }
    }
}

/// Where a session starts, whether that is where it was asked for, and what is missing before it.
fn start(
    journal: &dyn Journal,
    subscribe: &Subscribe,
    remembered: Option<Position>,
    frame_is_record: bool,
) -> (Position, bool, Option<u64>) {
    loop {
        let marks = *journal.marks().borrow();
        let facts = Facts {
            epoch: journal.epoch(),
            tail: marks.tail,
            head: marks.durable,
            frame_is_record,
        };
        let mut start = Start::of(subscribe, remembered, facts);
        if let Start::Behind { position, since } = start {
            let mut walk = Walk::new(position, since, subscribe.keys.as_ref());
            start = match walked(journal, &mut walk, facts.head) {
                Walked::To(to) => Start::walked(Some(to), facts),
                Walked::Beyond => Start::walked(None, facts),
                // Retention went on; now it is a position that is kept no more.
                Walked::Gone => continue,
            };
        }
        if let Start::At {
            from,
            resumed,
            lost,
        } = start
        {
            return (from, resumed, lost);
        }
    }
}

/// Where a walk led.
enum Walked {
    To(Position),
    /// Beyond its bound.
    Beyond,
    /// The journal has not all of it any more.
    Gone,
}

/// Walks through the journal, not beyond `end`.
fn walked(journal: &dyn Journal, walk: &mut Walk<'_>, end: Position) -> Walked {
    while !walk.is_done() {
        if walk.at() >= end || walk.is_lost() {
            return Walked::Beyond;
        }
        match journal.read(walk.at()) {
            Read::Chunk(chunk) => walk.over(&chunk),
            Read::Wait => return Walked::Beyond,
            Read::Lost { .. } => return Walked::Gone,
        }
    }
    match walk.at() <= end {
        true => Walked::To(walk.at()),
        false => Walked::Beyond,
    }
}
