//! The peer: what it makes of what arrives.

use std::ops::Range;
use std::time::Duration;

use wirefall::sink::websocket::session::{Confirm, PING_BYTES};

use crate::network::{Back, Sent};
use crate::world::World;

/// How a peer's messages confirm, where they do.
#[derive(Clone, Copy, Debug)]
pub enum Replies {
    InOrder,
    Count,
    Name,
}

/// A peer that keeps its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keeper {
    /// What it has heard on this connection.
    heard_to: u64,
    /// What is durable with it.
    kept_to: u64,
}

impl Keeper {
    /// What it is told by `hello`.
    pub fn starts_at(&mut self, from: u64) {
        self.heard_to = from;
        self.kept_to = from;
    }
}

impl World {
    /// The peer reads the next message, at `at`.
    pub fn peer_reads(&mut self, at: Duration) {
        let answered = at + self.latency();
        if let Some(connection) = &mut self.connection
            && connection.dead
        {
            connection.take();
            return;
        }
        if self.happens(self.faults.reset) {
            let end = match self.random.u32(..3) {
                0 => Back::Close,
                _ => Back::Reset,
            };
            self.see("reset or close");
            return self.peer_dies(answered, end);
        }
        if self.happens(self.faults.silence) {
            self.see("silence");
            if let Some(connection) = &mut self.connection {
                connection.fall_silent(at);
            }
            return;
        }
        if self.happens(self.faults.own_pong) {
            let bytes = self.random.usize(0..=PING_BYTES + 1);
            let payload = (0..bytes).map(|_| self.random.u8(..)).collect();
            self.say(answered, Back::Pong(payload));
        }
        let Some(sent) = self.connection.as_mut().and_then(|c| c.take()) else {
            return;
        };
        if self.trace {
            eprintln!("{at:?} the peer reads {sent:?}");
        }
        match sent {
            Sent::Records(records) => {
                if records.clone().any(|record| self.poisons.contains(&record)) {
                    return self.peer_dies(answered, Back::Reset);
                }
                if self.rules.confirm == Confirm::Place {
                    return self.keeper_hears(answered, records);
                }
                let bytes = self.bytes_of(records.clone());
                self.judge.handles(records.clone(), bytes);
                if self.rules.confirm == Confirm::Message {
                    self.reply(answered, records.end);
                }
            }
            Sent::Ping(payload) => {
                self.pong(answered, payload);
                if self.rules.confirm == Confirm::Place {
                    self.keep(answered, true);
                }
            }
            Sent::Close => self.say(answered, Back::Close),
        }
    }

    /// A peer that keeps its place has a connection: it says where it is.
    pub fn keeper_subscribes(&mut self, at: Duration) {
        self.keeper.heard_to = self.keeper.kept_to;
        // A peer that never said it is refused: that is another test.
        if self.proven && self.happens(self.faults.lost_pong) {
            return;
        }
        self.say(at, Back::Subscribed(self.keeper.kept_to));
    }

    fn keeper_hears(&mut self, at: Duration, records: Range<u64>) {
        let (seed, heard_to) = (self.seed, self.keeper.heard_to);
        assert_eq!(records.start, heard_to, "seed {seed}: a gap or a turn (I3)");
        self.keeper.heard_to = records.end;
        if self.random.bool() {
            let acknowledges = self.random.bool();
            self.keep(at, acknowledges);
        }
    }

    /// Makes durable what it has heard, and may say so.
    fn keep(&mut self, at: Duration, acknowledges: bool) {
        let Keeper { heard_to, kept_to } = self.keeper;
        if heard_to > kept_to {
            self.judge.handles(kept_to..heard_to, 0);
            self.keeper.kept_to = heard_to;
        }
        if acknowledges {
            self.say(at, Back::Below(heard_to));
        }
    }

    fn peer_dies(&mut self, at: Duration, end: Back) {
        self.say(at, end);
        if let Some(connection) = &mut self.connection {
            connection.dead = true;
        }
    }

    fn say(&mut self, at: Duration, back: Back) {
        if let Some(connection) = &mut self.connection {
            connection.say(at, back);
        }
    }

    fn pong(&mut self, at: Duration, mut payload: Vec<u8>) {
        // A peer that never answered a probe rightly is refused: that is another test.
        if self.proven && self.happens(self.faults.lost_pong) {
            return;
        }
        if self.proven && self.happens(self.faults.garbled_pong) {
            payload[12] ^= 0xff;
        }
        if self.happens(self.faults.doubled_pong) {
            self.say(at, Back::Pong(payload.clone()));
        }
        self.say(at, Back::Pong(payload));
    }

    /// Confirms the frame that ends at `to`.
    fn reply(&mut self, at: Duration, to: u64) {
        let garbled = self.happens(self.faults.garbled_reply);
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.frames_handled += 1;
        let frames = connection.frames_handled;
        match self.replies {
            Replies::InOrder => self.say(at, Back::Reply),
            Replies::Count => {
                if garbled {
                    self.say(at, Back::Counted(frames + 1_000_000));
                }
                self.say(at, Back::Counted(frames));
            }
            Replies::Name => {
                if garbled {
                    self.say(at, Back::Below(to + 1_000_000));
                }
                self.say(at, Back::Below(to));
            }
        }
    }
}
