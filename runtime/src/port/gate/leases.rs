//! Leases: what a session holds of a credential, and how it is taken back.
//!
//! Owns who is in by which credential (a post is a session for as long as it takes), how many they are, and
//! how many bytes they take together. Ends a session by telling it, and never touches its socket. The time
//! is given. Called by `gate`, and by the session through its [`Lease`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::credentials::{Denial, Grant, Keyring, UnixSeconds};

/// Bytes a second are an average over so long: a burst may be as large.
const BURST_S: i64 = 10;
/// Longest wait after a burst that was larger.
const DEBT_S: i64 = 60;

/// What is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The credential is no good any more.
    Credential(Denial),
    /// It is used more than it may.
    Allowance,
}

/// Why a session has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What is over.
    pub over: Over,
    /// In words.
    pub reason: String,
}

/// What a credential has only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Sessions at a time.
    Sessions,
    /// Bytes a second.
    Bytes,
}

/// The credential is used as much as it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Which limit it has reached.
    pub limit: Limit,
    /// In words.
    pub reason: String,
    /// When to come again.
    pub wait: Duration,
}

#[derive(Debug)]
struct Session {
    number: u64,
    grant: Grant,
    end: oneshot::Sender<Ended>,
}

/// All sessions of one credential.
#[derive(Debug)]
struct Holder {
    /// Oldest first.
    sessions: Vec<Session>,
    /// Those that are in, the ones that were told to end included.
    seats: u32,
    /// Bytes that all of them have sent.
    bytes: Arc<AtomicU64>,
    /// Of these, what was taken off the allowance.
    bytes_counted: u64,
    /// Bytes that may be sent before it is too much.
    allowance: i64,
}

impl Holder {
    fn new(grant: &Grant) -> Self {
        Self {
            sessions: Vec::new(),
            seats: 0,
            bytes: Arc::default(),
            bytes_counted: 0,
            allowance: rate(grant).saturating_mul(BURST_S),
        }
    }

    /// Whether nothing has to be remembered of it.
    fn is_settled(&self, rate: i64) -> bool {
        self.seats == 0 && self.allowance >= rate.saturating_mul(BURST_S)
    }

    fn refill(&mut self, rate: i64, elapsed: Duration) {
        let sent = self.bytes.load(Ordering::Relaxed);
        let new = sent - self.bytes_counted;
        self.bytes_counted = sent;
        let refill = (rate as f64 * elapsed.as_secs_f64()) as i64;
        let full = rate.saturating_mul(BURST_S);
        let allowance = self.allowance.saturating_add(refill).min(full);
        let owed = allowance.saturating_sub(i64::try_from(new).unwrap_or(i64::MAX));
        self.allowance = owed.max(rate.saturating_mul(-DEBT_S));
    }
}

/// Bytes a second that a grant allows; a bound that is never met where it names none.
fn rate(grant: &Grant) -> i64 {
    let rate = grant.limits.bytes_per_second.unwrap_or(u64::MAX);
    i64::try_from(rate).unwrap_or(i64::MAX).max(1)
}

#[derive(Debug, Default)]
struct Holders {
    by_id: HashMap<Arc<str>, (Holder, i64)>,
    numbers: u64,
}

/// The leases that are out.
#[derive(Clone, Debug, Default)]
pub struct Leases(Arc<Mutex<Holders>>);

impl Leases {
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.0
            .lock()
            .expect("no code panics while it holds the leases")
    }

    /// Lets a session in.
    pub fn take(&self, grant: Grant) -> Result<Lease, Spent> {
        let mut holders = self.holders();
        let number = holders.numbers;
        holders.numbers += 1;
        let rate = rate(&grant);
        let (holder, _) = holders
            .by_id
            .entry(Arc::clone(&grant.id))
            .or_insert_with(|| (Holder::new(&grant), rate));
        if let Some(most) = grant.limits.sessions.filter(|most| holder.seats >= *most) {
            return Err(Spent {
                limit: Limit::Sessions,
                reason: format!("all {most} sessions of this credential are in use"),
                wait: Duration::from_secs(5),
            });
        }
        if holder.allowance < 0 {
            let wait = holder.allowance.saturating_neg() / rate + 1;
            return Err(Spent {
                limit: Limit::Bytes,
                reason: format!("more than {rate} bytes a second were sent by this credential"),
                wait: Duration::from_secs(wait.unsigned_abs()),
            });
        }
        let (end, ended) = oneshot::channel();
        let (id, bytes) = (Arc::clone(&grant.id), Arc::clone(&holder.bytes));
        holder.seats += 1;
        holder.sessions.push(Session { number, grant, end });
        Ok(Lease {
            held: Some(Held {
                leases: self.clone(),
                id,
                number,
                bytes,
            }),
            ended: Some(ended),
        })
    }

    /// Ends the sessions whose grants hold no more, and of a credential that sends too much the one that
    /// came last. To be called again and again; `elapsed` is since the last time.
    pub fn sweep(&self, ring: &Keyring, now: UnixSeconds, elapsed: Duration) {
        let mut holders = self.holders();
        for (holder, rate) in holders.by_id.values_mut() {
            holder.refill(*rate, elapsed);
            let mut kept = Vec::with_capacity(holder.sessions.len());
            for session in holder.sessions.drain(..) {
                match ring.standing(&session.grant, now) {
                    Ok(()) => kept.push(session),
                    Err(denial) => end(session, Over::Credential(denial), denial.to_string()),
                }
            }
            if holder.allowance < 0
                && let Some(session) = kept.pop()
            {
                let reason = format!("more than {rate} bytes a second");
                end(session, Over::Allowance, reason);
            }
            holder.sessions = kept;
        }
        holders
            .by_id
            .retain(|_, (holder, rate)| !holder.is_settled(*rate));
    }
}

fn end(session: Session, over: Over, reason: String) {
    tracing::info!(
        credential = &*session.grant.id,
        ?over,
        "a session is ended: {reason}"
    );
    // One that has left meanwhile needs no telling.
    let _ = session.end.send(Ended { over, reason });
}

/// What a session holds for as long as it is in.
#[derive(Debug)]
pub struct Lease {
    /// Nothing where no credentials are asked for.
    held: Option<Held>,
    ended: Option<oneshot::Receiver<Ended>>,
}

#[derive(Debug)]
struct Held {
    leases: Leases,
    id: Arc<str>,
    number: u64,
    bytes: Arc<AtomicU64>,
}

impl Lease {
    /// Of a session that showed no credential, because none is asked for.
    pub fn free() -> Self {
        let (held, ended) = (None, None);
        Self { held, ended }
    }

    /// The ID of the credential that is held.
    pub fn credential(&self) -> Option<&Arc<str>> {
        self.held.as_ref().map(|held| &held.id)
    }

    /// Counts bytes that were sent, in either direction.
    pub fn sent(&self, bytes: usize) {
        if let Some(held) = &self.held {
            held.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Waits until the session has to end, which it is told once. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        if let Some(ended) = &mut self.ended {
            let told = ended.await;
            self.ended = None;
            if let Ok(told) = told {
                return told;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.leases.holders();
        if let Some((holder, _)) = holders.by_id.get_mut(&self.id) {
            holder.seats -= 1;
            holder.sessions.retain(|one| one.number != self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::credentials::{Limits, Scope, Wanted};

    const SECOND: Duration = Duration::from_secs(1);

    fn granted(limits: Limits) -> (Keyring, Grant) {
        let mut ring = Keyring::new().unwrap();
        let wanted = Wanted {
            scopes: vec![Scope::Subscribe],
            lifetime: None,
            limits,
        };
        let issued = ring.create(wanted, 0).unwrap();
        let grant = ring.recognise(None, issued.secret.reveal(), 0).unwrap();
        (ring, grant)
    }

    fn told(lease: &mut Lease) -> Option<Over> {
        lease.ended().now_or_never().map(|ended| ended.over)
    }

    #[test]
    fn a_session_is_told_once_that_its_secret_was_replaced() {
        let (mut ring, grant) = granted(Limits::default());
        let leases = Leases::default();
        let mut lease = leases.take(grant.clone()).unwrap();
        leases.sweep(&ring, 0, SECOND);
        assert_eq!(told(&mut lease), None);
        ring.rotate(&grant.id, SECOND * 10, 0).unwrap();
        leases.sweep(&ring, 9, SECOND);
        assert_eq!(told(&mut lease), None);
        leases.sweep(&ring, 10, SECOND);
        assert_eq!(told(&mut lease), Some(Over::Credential(Denial::Replaced)));
        assert_eq!(told(&mut lease), None);
    }

    #[test]
    fn i4_sessions_of_a_credential_are_bounded() {
        let limits = Limits {
            sessions: Some(2),
            ..Limits::default()
        };
        let (ring, grant) = granted(limits);
        let leases = Leases::default();
        let first = leases.take(grant.clone()).unwrap();
        let _second = leases.take(grant.clone()).unwrap();
        assert!(leases.take(grant.clone()).is_err());
        drop(first);
        let third = leases.take(grant).unwrap();
        drop((third, _second));
        leases.sweep(&ring, 0, SECOND);
        assert!(leases.holders().by_id.is_empty());
    }

    #[test]
    fn i4_bytes_of_a_credential_are_bounded_and_the_newest_session_gives_way() {
        let limits = Limits {
            bytes_per_second: Some(1000),
            ..Limits::default()
        };
        let (ring, grant) = granted(limits);
        let leases = Leases::default();
        let mut old = leases.take(grant.clone()).unwrap();
        let mut new = leases.take(grant.clone()).unwrap();
        old.sent(11_000);
        leases.sweep(&ring, 0, SECOND);
        assert_eq!(
            (told(&mut old), told(&mut new)),
            (None, Some(Over::Allowance))
        );
        drop(new);
        let refused = leases.take(grant.clone()).unwrap_err();
        assert_eq!(refused.wait, Duration::from_secs(2));
        // It is paid back, even where nobody is in any more; and there is an end to any debt.
        old.sent(1 << 30);
        drop(old);
        leases.sweep(&ring, 0, SECOND);
        assert!(leases.take(grant.clone()).is_err());
        for _ in 0..60 {
            leases.sweep(&ring, 0, SECOND);
        }
        assert!(leases.take(grant).is_ok());
    }
}
