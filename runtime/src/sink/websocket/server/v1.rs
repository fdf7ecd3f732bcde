//! The dialogue of a subscriber that speaks `wirefall.v1`: what it asks, what it is told.
//!
//! Owns the sender's side of one session: from `subscribe` to `bye`, marks, heartbeats, acks. What a
//! message means `protocol` decides; here the journal and the names are asked. Writes to no socket.
//! Called by `subscriber`.

use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use super::names::{Foreign, Held};
use crate::journal::Position;
use crate::sink::framing::{Batching, Carrier};
use crate::sink::websocket::places::{self, Walked};
use crate::sink::websocket::protocol::{
    Keys, Kind, MARK_RECORDS_MAX, Reason, Said, Sender, Subscribe, Walk, Wrong,
};

/// See the module.
pub(super) struct V1 {
    sender: Sender,
    /// What it asked for; `None` before it has.
    session: Option<Asked>,
}

struct Asked {
    keys: Option<Keys>,
    held: Option<Held>,
}

/// Counts that a receiver starts behind something missing. The log is told of those with a name: they were to
/// miss nothing, and they are few.
fn missed(hub: &Hub, name: Option<&str>, lost: Option<u64>) {
    let metrics = &hub.context.metrics;
    metrics.late.add(1);
    metrics.records_missed.add(lost.unwrap_or(0));
    if let Some(name) = name {
        tracing::warn!(
            name,
            lost,
            "a subscriber asks for a place that is not kept: records are missing before where it starts"
        );
    }
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
        }
    }

    /// Takes a message; of acks [`settle_ack`](Self::settle_ack) tells the names.
    ///
    /// # Errors
    /// It is wrong, or comes at the wrong time.
    pub(super) fn hear(&mut self, payload: &[u8]) -> Result<Said, Wrong> {
        self.sender.hear(payload)
    }

    /// Answers `subscribe` of a session of the credential `who`: where it starts, with `hello` appended to
    /// `out`.
    ///
    /// # Errors
    /// The name is another credential's. Nothing was said.
    pub(super) fn begin(
        &mut self,
        now: Duration,
        hub: &Hub,
        who: Option<&Arc<str>>,
        subscribe: Subscribe,
        out: &mut Vec<u8>,
    ) -> Result<Position, Foreign> {
        let (held, remembered) = match &subscribe.name {
            Some(name) => {
                let exists = |id: &str| hub.gate.has_credential(id);
                let (held, remembered) = hub.names.take(name, who, exists)?;
                (Some(held), remembered)
            }
            None => (None, None),
        };
        let frame_is_record = matches!(hub.plan.framing.batch, Batching::Record);
        let journal = &*hub.context.journal;
        let start = places::start(journal, &subscribe, remembered, frame_is_record);
        let (from, resumed, lost) = start;
        if !resumed {
            missed(hub, subscribe.name.as_deref(), lost);
        }
        if let Some(held) = &held {
            hub.names.begin(held, from);
        }
        let head = journal.marks().borrow().durable;
        let stream = &hub.context.pipeline;
        self.sender.hello(now, stream, start, head, out);
        self.session = Some(Asked {
            keys: subscribe.keys,
            held,
        });
        Ok(from)
    }

    /// Tells the names what was acknowledged of what was sent, all below `sent`.
    ///
    /// # Errors
    /// More was acknowledged.
    pub(super) fn settle_ack(&mut self, hub: &Hub, sent: Position) -> Result<(), Wrong> {
        let (Some(steps), Some(asked)) = (self.sender.take_ack(), &self.session) else {
            return Ok(());
        };
        // A frame has a record at least. Of those without a name it is all that is looked at: their acks
        // mean nothing, and to walk over their frames is work that a stranger could ask for.
        if steps.position > sent || steps.since > sent.since(steps.position) {
            return Err(Wrong::beyond());
        }
        let Some(held) = &asked.held else {
            return Ok(());
        };
        let mut walk = Walk::new(steps, asked.keys.as_ref());
        let to = match places::walked(&*hub.context.journal, &mut walk, sent) {
            Walked::To(to) => to,
            Walked::Beyond => return Err(Wrong::beyond()),
            // Its frames are not kept: the position before them is what is known.
            Walked::Gone => steps.position,
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
