//! The account of a run (I2): every input in exactly one place.
//!
//! Owns the numbers and how they are shown. Only the loop counts.

use std::fmt;

use serde::Serialize;

use crate::sink::{Delivered, Delivery};
use crate::source::Oddities;

/// Where every input of a run went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Records that an earlier run left in the journal, to be delivered by this one.
    pub carried_in: u64,
    /// Inputs that the source gave.
    pub read: u64,
    /// Confirmed by the peer at the `ack` level (client mode, plain sinks).
    pub delivered: u64,
    /// Appended to the journal for subscribers (server mode).
    pub published: u64,
    /// Inputs for which the plugins emitted nothing.
    pub filtered: u64,
    /// Safe in the failover.
    pub failed_over: u64,
    /// Dropped because the configuration says so, or because whoever sent it was told that it is rejected.
    pub dropped: u64,
    /// None of these: the source still has them, or the journal has, for the next run.
    pub unconfirmed: u64,
    /// Of the delivered or published ones: those that a plugin failed on and `on_error: pass` let go.
    pub passed: u64,
    /// Records that were sent more than once.
    pub resent: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// Of the failed over ones: those that are no UTF-8, where frames are text.
    pub invalid_utf8: u64,
    /// Empty lines, which are no records.
    pub empty_lines: u64,
    /// Of those read: the last lines that no newline ended.
    pub unended_lines: u64,
    /// Of those read: messages that do not hold what `framing` says.
    pub unsplit_messages: u64,
    /// Records that the source's server had no more when they were asked for: none of those read.
    pub missed: u64,
    /// How often it could not tell whether there were such.
    pub gaps: u64,
    /// Records go to subscribers: none is ever delivered, so that is not told.
    #[serde(skip)]
    pub publishes: bool,
}

impl Account {
    /// Whether every input is in exactly one place.
    pub fn balances(&self) -> bool {
        let settled = self.delivered + self.published + self.filtered + self.failed_over;
        self.carried_in + self.read == settled + self.dropped + self.unconfirmed
    }

    /// Counts `inputs` as settled the way the sink settles them.
    pub(super) fn settle(&mut self, delivery: Delivery, inputs: u64) {
        match delivery {
            Delivery::Confirmed => self.delivered += inputs,
            Delivery::Published => self.published += inputs,
        }
    }

    pub(super) fn close(&mut self, delivered: Delivered, oddities: Oddities) {
        self.resent = delivered.resent;
        self.reconnects = delivered.reconnects;
        self.empty_lines = oddities.empty_lines;
        self.unended_lines = oddities.unended_lines;
        self.unsplit_messages = oddities.unsplit_messages;
        self.missed = oddities.missed;
        self.gaps = oddities.gaps;
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read {}", self.read)?;
        if self.carried_in > 0 {
            write!(f, " · carried in {}", self.carried_in)?;
        }
        let settled = match self.publishes {
            false => "delivered",
            true => "published",
        };
        let always = [settled, "filtered", "failed over", "unconfirmed"];
        let places = [
            ("delivered", self.delivered),
            ("published", self.published),
            ("filtered", self.filtered),
            ("failed over", self.failed_over),
            ("dropped", self.dropped),
            ("unconfirmed", self.unconfirmed),
            ("passed unchanged", self.passed),
            ("sent again", self.resent),
            ("reconnects", self.reconnects),
            ("invalid UTF-8", self.invalid_utf8),
            ("empty lines", self.empty_lines),
            ("last lines without a newline", self.unended_lines),
            ("messages not cut", self.unsplit_messages),
            ("missed", self.missed),
            ("gaps of unknown length", self.gaps),
        ];
        for (name, count) in places {
            if count > 0 || always.contains(&name) {
                write!(f, " · {name} {count}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i2_an_input_in_no_place_is_noticed() {
        let account = Account {
            read: 3,
            delivered: 1,
            filtered: 1,
            ..Account::default()
        };
        assert!(!account.balances());
        assert!(
            Account {
                dropped: 1,
                ..account
            }
            .balances()
        );
        let carried_in = Account {
            carried_in: 1,
            ..account
        };
        assert!(!carried_in.balances());
    }

    #[test]
    fn shows_what_matters_and_leaves_out_what_is_not() {
        let mut account = Account {
            read: 3,
            published: 2,
            filtered: 1,
            publishes: true,
            ..Account::default()
        };
        assert_eq!(
            account.to_string(),
            "read 3 · published 2 · filtered 1 · failed over 0 · unconfirmed 0"
        );
        (account.published, account.filtered) = (0, 3);
        assert_eq!(
            account.to_string(),
            "read 3 · published 0 · filtered 3 · failed over 0 · unconfirmed 0"
        );
    }
}
