//! The receiver's side: the place in the stream, and what each frame of the sender means for it.
//!
//! Owns the place, which is what a receiver has to keep to lose nothing. Knows neither the connection
//! nor what becomes of the records.

use std::time::Duration;

use super::message::{Bye, From, Hello, Kind, Notice, Request, Subscribe, Wrong};
use super::place::Place;
use super::walk::Keys;

/// What a receiver asks for when it has no place yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where to start.
    pub from: Option<From>,
    /// The name of a cursor that the sender keeps.
    pub name: Option<String>,
    /// Only records with one of these keys.
    pub keys: Option<Keys>,
}

/// What a frame of the sender means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Records. The place is behind them now.
    Data,
    /// The answer to `subscribe`. Not `resumed`: `lost` records are missing before what comes.
    Hello(Hello),
    /// Records are missing before what comes: so many, where that is known.
    Gap(Option<u64>),
    /// It closes.
    Bye(Bye),
    /// Everything before has a position.
    Mark,
    /// Nothing but that the sender lives.
    Life,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Receiver {
    wanted: Wanted,
    place: Option<Place>,
    /// What `hello` said on this connection.
    data: Option<Kind>,
    heartbeat: Duration,
}

impl Receiver {
    /// A receiver that goes on at `place`, or begins as `wanted` says.
    pub fn new(wanted: Wanted, place: Option<Place>) -> Self {
        Self {
            wanted,
            place,
            data: None,
            heartbeat: Duration::ZERO,
        }
    }

    /// What to say first on a new connection.
    pub fn subscribe(&mut self) -> Request {
        self.data = None;
        let (from, since) = match &self.place {
            Some(place) => (Some(From::Position(place.position.clone())), place.since),
            None => (self.wanted.from.clone(), 0),
        };
        Request::Subscribe(Subscribe {
            from,
            since,
            name: self.wanted.name.clone(),
            keys: self.wanted.keys.clone(),
        })
    }

    /// Behind which frame it is; `None` before the first `hello`.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Longest silence after which the sender counts as gone; `None` before `hello`.
    pub fn silence_max(&self) -> Option<Duration> {
        self.data.map(|_| self.heartbeat * 2)
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// The sender breaks the protocol.
    pub fn hear(&mut self, kind: Kind, payload: &[u8]) -> Result<Heard, Wrong> {
        if self.data == Some(kind) {
            let place = self.place.as_mut().expect("hello has set it");
            place.since += 1;
            return Ok(Heard::Data);
        }
        let notice = Notice::parse(payload)?;
        match (notice, self.data) {
            (Notice::Hello(hello), None) if hello.data == kind.other() => {
                self.data = Some(hello.data);
                self.heartbeat = Duration::from_millis(hello.heartbeat_ms);
                self.come_to(hello.from.clone());
                Ok(Heard::Hello(hello))
            }
            (Notice::Hello(_), None) => {
                let wrong = "`hello` came in the kind of frame that it gives to records";
                Err(Wrong::new(wrong))
            }
            (Notice::Hello(_), Some(_)) => Err(Wrong::new("a second `hello`")),
            (Notice::Mark(mark), Some(_)) => {
                self.come_to(mark.position);
                Ok(Heard::Mark)
            }
            (Notice::Gap(gap), Some(_)) => {
                self.come_to(gap.from);
                Ok(Heard::Gap(gap.lost))
            }
            (Notice::Bye(bye), Some(_)) => Ok(Heard::Bye(bye)),
            (Notice::Heartbeat(_) | Notice::Unknown, Some(_)) => Ok(Heard::Life),
            (_, None) => Err(Wrong::new("the first message is not `hello`")),
        }
    }

    fn come_to(&mut self, position: String) {
        self.place = Some(Place { position, since: 0 });
    }
}
