//! The client as a pipeline sees it before it runs: what it promises, and how it is opened.
//!
//! Owns the words about what `ack` means, and the pin: nothing is kept for a client that has none. Dials
//! nothing but for a probe. Called through the driver table.

use tokio::time::Instant;

use super::Client;
use crate::driver::{BoxFuture, ProbeStep};
use crate::sink::framing::Framing;
use crate::sink::websocket::config::{ClientPlan, Replies};
use crate::sink::websocket::push::Push;
use crate::sink::websocket::session::{Confirm, Session};
use crate::sink::websocket::{probe, tls};
use crate::sink::{Delivery, Sink, SinkContext, SinkError, SinkPlan};

impl SinkPlan for ClientPlan {
    fn describe(&self) -> String {
        format!("websocket {}", self.endpoint.address)
    }

    fn delivery(&self) -> Delivery {
        Delivery::Confirmed
    }

    fn guarantee(&self) -> String {
        match (self.rules.confirm, &self.replies) {
            (Confirm::Written, _) => {
                "at most what the kernel takes: `ack: written` counts a record as delivered when the \
                 local kernel has it, and a connection that breaks loses what was under way"
            }
            (Confirm::Pong, _) => {
                "at least once: a record is delivered when the peer has answered a Ping behind it; \
                 that proves that the next WebSocket hop has parsed it, not that the program behind \
                 it has processed it"
            }
            (Confirm::Message, Replies::Order) => {
                "at least once: a record is delivered when the peer has answered its message with one \
                 of its own"
            }
            (Confirm::Message, _) => {
                "at least once: a record is delivered when a message of the peer names it or one \
                 behind it"
            }
            (Confirm::Place, _) => {
                "a record is delivered when the receiver says that it has made it safe, and a receiver \
                 that keeps its place with the records gets none twice, whatever breaks between"
            }
        }
        .to_owned()
    }

    fn resumes(&self) -> bool {
        self.rules.confirm == Confirm::Place
    }

    fn framing(&self) -> Framing {
        self.framing.clone()
    }

    fn open(&self, context: SinkContext) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async move {
            let tls =
                tls::of(&self.endpoint).map_err(|message| SinkError::Environment { message })?;
            let from = context.from;
            let journal = &context.journal;
            let marks = journal.marks();
            let push = (self.rules.confirm == Confirm::Place).then(|| {
                let tail = marks.borrow().tail;
                Push::new(&context.pipeline, journal.epoch(), &self.framing, tail)
            });
            let cursor = journal.pin(push.as_ref().map_or(from, Push::named));
            // Until it has one for the first time, too.
            context.metrics.disconnected.set(1);
            let session = Session::new(self.rules.clone(), from, fastrand::u64(..));
            let sink: Box<dyn Sink> = Box::new(Client {
                plan: self.clone(),
                tls,
                context,
                marks,
                session,
                cursor,
                push,
                start: Instant::now(),
                line: None,
                resent_told: false,
            });
            Ok(sink)
        })
    }

    fn probe(&self) -> BoxFuture<'_, Vec<ProbeStep>> {
        Box::pin(probe::probe(&self.endpoint))
    }
}
