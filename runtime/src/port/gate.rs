//! Who is let in: credentials of the stream, tickets, and what becomes of those who show neither.
//!
//! Owns the decision and its memory: the credentials as their file has them now, tickets that are out,
//! sessions that are in, addresses that failed. Never sees a request beyond its headers, and answers none but a
//! refusal. Called for each request of a port, and once by its owner to follow the file.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{StatusCode, header};
use tokio::time::{MissedTickBehavior, interval};

use self::followed::Followed;
use self::leases::Leases;
use self::presented::{Presented, presented};
use self::throttle::{Failure, Throttle};
use self::tickets::{NoTicket, Tickets};
use crate::credentials::store::now;
use crate::credentials::{Denial, Grant, Keyring, Scope, secret};
use crate::metrics::{Counter, Metrics};
use crate::port::answer::{Answer, put, text, wait};
use crate::units::Secret;

mod followed;
mod leases;
pub mod presented;
mod throttle;
mod tickets;

pub use followed::Credentials;
pub use leases::{Ended, Lease, Limit, Over, Spent};
pub use tickets::LIFETIME as TICKET_LIFETIME;

/// How often the file is looked at in any case, and sessions whose credential has ended are closed.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No credential was shown.
    Missing,
    /// One was shown in a way that is not understood.
    Unreadable,
    /// One was shown in the address.
    InQuery,
    /// It opens nothing, or no longer.
    Denied(Denial),
    /// A ticket that there is not.
    NoTicket,
    /// A ticket that was used before.
    UsedTicket,
    /// The credential is good, but not for this.
    Scope(Scope),
    /// The name that was said is another credential's.
    Name,
}

/// Names of the reasons, for metrics, in the order of [`Refused::index`].
const REASONS: [&str; 10] = [
    "missing",
    "unreadable",
    "in_query",
    "wrong",
    "expired",
    "replaced",
    "ticket_unknown",
    "ticket_used",
    "scope",
    "name",
];

impl Refused {
    fn index(self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Unreadable => 1,
            Self::InQuery => 2,
            Self::Denied(Denial::Wrong | Denial::Revoked) => 3,
            Self::Denied(Denial::Expired) => 4,
            Self::Denied(Denial::Replaced) => 5,
            Self::NoTicket => 6,
            Self::UsedTicket => 7,
            Self::Scope(_) => 8,
            Self::Name => 9,
        }
    }

    /// What to tell the one who is refused. Short enough for a Close.
    pub fn words(self) -> String {
        match self {
            Self::Missing => "a credential is needed: `Authorization: Bearer SECRET`".to_owned(),
            Self::Unreadable => {
                "the Authorization header is neither `Bearer SECRET` nor Basic".to_owned()
            }
            Self::InQuery => {
                "a credential does not belong into an address, which is logged on its way: use a header, or a ticket"
                    .to_owned()
            }
            Self::Denied(denial) => denial.to_string(),
            Self::NoTicket => "the ticket is wrong, or its time is over".to_owned(),
            Self::UsedTicket => "the ticket was used before".to_owned(),
            Self::Scope(scope) => format!("this credential does not allow `{}`", scope.name()),
            Self::Name => "this name belongs to another credential".to_owned(),
        }
    }
}

/// How somebody who is in may misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It broke a protocol.
    Breach,
    /// It answers no more, or takes nothing.
    Silence,
}

/// See the module.
pub struct Gate {
    /// Nothing where no credentials are asked for.
    guard: Option<Guard>,
    throttle: Mutex<Throttle>,
    /// The same of those who are in and misbehave, which tells nothing about their credentials.
    conduct: [Mutex<Throttle>; 2],
    refused: [Counter; REASONS.len()],
    /// Those that are told to come again later are counted for all ports of a run.
    metrics: Arc<Metrics>,
}

struct Guard {
    credentials: Arc<Followed>,
    tickets: Mutex<Tickets>,
    leases: Leases,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds it")
}

impl Gate {
    /// The gate of a stream with these credentials; `asks`: only they open it.
    ///
    /// # Errors
    /// Credentials are asked for, and there are none or they cannot be read; in words.
    pub fn open(
        credentials: &Credentials,
        asks: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let store = credentials.store();
        if !asks && store.stamp().is_some() {
            tracing::warn!(
                "{} has credentials, and `auth: none` asks for none",
                store.path().display()
            );
        }
        let guard = match asks {
            false => None,
            true => Some(Guard {
                credentials: credentials.follow()?,
                tickets: Mutex::default(),
                leases: Leases::default(),
            }),
        };
        Ok(Self {
            guard,
            throttle: Mutex::default(),
            conduct: Default::default(),
            refused: Default::default(),
            metrics,
        })
    }

    /// Whether credentials are asked for.
    pub fn asks(&self) -> bool {
        self.guard.is_some()
    }

    /// The stream's GUID, where it has one.
    pub fn stream(&self) -> Option<String> {
        Some(self.guard.as_ref()?.credentials.ring().stream.clone())
    }

    /// How often somebody was refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS
            .into_iter()
            .zip(self.refused.iter().map(Counter::get))
    }

    /// Whether a request may do what `scope` is for. `None` where no credentials are asked for.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, scope: Scope, request: &Parts) -> Result<Option<Grant>, Refused> {
        let presented = presented(request.uri.query(), &request.headers);
        if matches!(presented, Presented::InQuery) {
            return Err(Refused::InQuery);
        }
        let Some(guard) = &self.guard else {
            return Ok(None);
        };
        let grant = match presented {
            Presented::Nothing => return Err(Refused::Missing),
            Presented::Unreadable => return Err(Refused::Unreadable),
            Presented::InQuery => unreachable!("it is refused above"),
            Presented::Secret { id, secret } => {
                let known =
                    |ring: Arc<Keyring>| ring.recognise(id.as_deref(), secret.reveal(), now());
                match known(guard.credentials.ring()) {
                    // It may have been made a moment ago.
                    Err(Denial::Wrong) => known(guard.credentials.look_again(Instant::now())),
                    known => known,
                }
                .map_err(Refused::Denied)?
            }
            // A ticket opens the stream, and nothing else.
            Presented::Ticket(_) if scope != Scope::Subscribe => return Err(Refused::NoTicket),
            Presented::Ticket(ticket) => {
                let redeemed = lock(&guard.tickets).redeem(ticket.reveal(), Instant::now());
                let grant = redeemed.map_err(|no| match no {
                    NoTicket::Unknown => Refused::NoTicket,
                    NoTicket::Used => Refused::UsedTicket,
                })?;
                // Since it was got the credential may have ended.
                let ring = guard.credentials.ring();
                ring.standing(&grant, now()).map_err(Refused::Denied)?;
                grant
            }
        };
        match grant.allows(scope) {
            true => Ok(Some(grant)),
            false => Err(Refused::Scope(scope)),
        }
    }

    /// Lets a session in by what [`admit`](Self::admit) gave.
    ///
    /// # Errors
    /// The credential is used as much as it may.
    pub fn lease(&self, grant: Option<Grant>) -> Result<Lease, Spent> {
        match (&self.guard, grant) {
            (Some(guard), Some(grant)) => guard.leases.take(grant).inspect_err(|spent| {
                let too_many = &self.metrics.too_many;
                match spent.limit {
                    Limit::Sessions => too_many.sessions.add(1),
                    Limit::Bytes => too_many.bytes.add(1),
                }
            }),
            _ => Ok(Lease::free()),
        }
    }

    /// A ticket for the holder of a grant.
    ///
    /// # Errors
    /// Too many are out, or the system gives no random bytes.
    pub fn ticket(&self, grant: Grant) -> Result<Secret, String> {
        let guard = self.guard.as_ref();
        let guard = guard.expect("a grant is given only where credentials are asked for");
        let ticket = secret::secret()
            .map_err(|error| format!("the system gives no random bytes: {error}"))?;
        lock(&guard.tickets)
            .issue(ticket.reveal(), grant, Instant::now())
            .map_err(|_| {
                self.metrics.too_many.tickets.add(1);
                "too many tickets of this credential are out".to_owned()
            })?;
        Ok(ticket)
    }

    /// Notes a refusal, and logs the first of an address in a while.
    fn note(&self, refused: Refused, address: IpAddr) -> Failure {
        self.refused[refused.index()].add(1);
        let failure = lock(&self.throttle).failed(address, Instant::now());
        if failure == Failure::First {
            let reason = refused.words();
            tracing::warn!(%address, "not let in: {reason} (further ones of this address are counted for a minute)");
        }
        failure
    }

    /// Whether there is a credential of this ID, be it good or past its end.
    pub fn has_credential(&self, id: &str) -> bool {
        self.guard.as_ref().is_some_and(|guard| {
            let ring = guard.credentials.ring();
            ring.credentials.iter().any(|one| *one.id == *id)
        })
    }

    /// Notes that a session that is in is refused a name.
    pub fn refuse_name(&self, client: IpAddr) -> String {
        self.note(Refused::Name, client);
        Refused::Name.words()
    }

    /// Notes a refusal, and gives its answer; and whether the address is to wait because it failed too
    /// often.
    pub fn refuse(&self, refused: Refused, client: IpAddr) -> (Answer, bool) {
        if let Failure::TooMany { wait: until } = self.note(refused, client) {
            self.metrics.too_many.failures.add(1);
            let reason = format!(
                "too many failures of this address; the last: {}",
                refused.words()
            );
            return (wait(&reason, until), true);
        }
        let status = match refused {
            Refused::Scope(_) | Refused::Name => StatusCode::FORBIDDEN,
            Refused::InQuery => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNAUTHORIZED,
        };
        let mut answer = text(status, &refused.words());
        if status == StatusCode::UNAUTHORIZED {
            // Not Basic, which is taken too: browsers would ask for a name and a password.
            let challenge = match refused {
                Refused::Missing => "Bearer realm=\"wirefall\"",
                _ => "Bearer realm=\"wirefall\", error=\"invalid_token\"",
            };
            put(&mut answer, header::WWW_AUTHENTICATE, challenge);
        }
        (answer, false)
    }

    /// Notes that an address is refused for another reason; whether that is worth a line in the log.
    pub fn is_news(&self, address: IpAddr) -> bool {
        lock(&self.throttle).failed(address, Instant::now()) == Failure::First
    }

    /// Notes that somebody who is in misbehaves; whether that is worth a line in the log.
    pub fn is_news_of(&self, conduct: Conduct, address: IpAddr) -> bool {
        let throttle = &self.conduct[conduct as usize];
        lock(throttle).failed(address, Instant::now()) == Failure::First
    }

    /// Follows the file, and ends sessions whose credential has ended. Never returns.
    pub async fn follow(&self) {
        let Some(guard) = &self.guard else {
            return std::future::pending().await;
        };
        let mut look = interval(FOLLOW_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            look.tick().await;
            let ring = guard.credentials.look();
            let elapsed = last.elapsed();
            last = Instant::now();
            guard.leases.sweep(&ring, now(), elapsed);
        }
    }
}
