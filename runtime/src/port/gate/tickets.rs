//! Tickets: secrets that open the stream once, within half a minute.
//!
//! Owns those that are out. For browsers, whose scripts get one with a credential that their page or
//! their service has, so that the credential itself is in no address and in no script for long. Pure:
//! the time is given. Called by `gate`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::credentials::{Digest, Grant};

/// How long a ticket is good.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// Most tickets of one credential that are out at a time, used ones included until their time is over
/// (I4): whoever takes more holds up nobody else.
const PER_CREDENTIAL_MAX: usize = 512;

/// Why a ticket does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTicket {
    /// There is none, or not any more.
    Unknown,
    /// It has opened once.
    Used,
}

/// One credential has too many tickets out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

#[derive(Debug)]
struct Ticket {
    grant: Grant,
    until: Instant,
    used: bool,
}

/// The tickets that are out.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// By their digests: how long a look-up takes then tells nothing of a ticket.
    out: HashMap<Digest, Ticket>,
}

impl Tickets {
    /// Takes note of a new ticket.
    pub(super) fn issue(
        &mut self,
        ticket: &str,
        grant: Grant,
        now: Instant,
    ) -> Result<(), TooMany> {
        self.out.retain(|_, ticket| now < ticket.until);
        let same = self.out.values().filter(|one| one.grant.id == grant.id);
        if same.count() >= PER_CREDENTIAL_MAX {
            return Err(TooMany);
        }
        let until = now + LIFETIME;
        let used = false;
        self.out
            .insert(Digest::of(ticket), Ticket { grant, until, used });
        Ok(())
    }

    /// Uses a ticket up, for the grant with which it was got.
    pub(super) fn redeem(&mut self, ticket: &str, now: Instant) -> Result<Grant, NoTicket> {
        let ticket = self.out.get_mut(&Digest::of(ticket));
        let ticket = ticket.filter(|ticket| now < ticket.until);
        let ticket = ticket.ok_or(NoTicket::Unknown)?;
        match std::mem::replace(&mut ticket.used, true) {
            false => Ok(ticket.grant.clone()),
            true => Err(NoTicket::Used),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Keyring, Limits, Scope, Wanted};

    fn grants<const N: usize>() -> [Grant; N] {
        let mut ring = Keyring::new().unwrap();
        [(); N].map(|()| {
            let wanted = Wanted {
                scopes: vec![Scope::Subscribe],
                lifetime: None,
                limits: Limits::default(),
            };
            let issued = ring.create(wanted, 0).unwrap();
            ring.recognise(None, issued.secret.reveal(), 0).unwrap()
        })
    }

    #[test]
    fn a_ticket_opens_once_and_in_time() {
        let [grant] = grants();
        let mut tickets = Tickets::default();
        let now = Instant::now();
        tickets.issue("a", grant.clone(), now).unwrap();
        tickets.issue("b", grant.clone(), now).unwrap();
        let last = now + LIFETIME - Duration::from_millis(1);
        assert_eq!(tickets.redeem("a", last), Ok(grant));
        assert_eq!(tickets.redeem("a", last), Err(NoTicket::Used));
        assert_eq!(tickets.redeem("b", now + LIFETIME), Err(NoTicket::Unknown));
        assert_eq!(tickets.redeem("c", now), Err(NoTicket::Unknown));
    }

    #[test]
    fn i4_the_tickets_of_one_credential_are_bounded_and_hold_up_no_other() {
        let [greedy, other] = grants();
        let mut tickets = Tickets::default();
        let now = Instant::now();
        for number in 0..PER_CREDENTIAL_MAX {
            tickets
                .issue(&number.to_string(), greedy.clone(), now)
                .unwrap();
        }
        assert_eq!(tickets.issue("more", greedy.clone(), now), Err(TooMany));
        assert_eq!(tickets.issue("other", other, now), Ok(()));
        assert_eq!(tickets.issue("later", greedy, now + LIFETIME), Ok(()));
        assert_eq!(tickets.out.len(), 1);
    }
}
