//! When a certificate ends, or begins, and what to say of it before and after.
//!
//! Owns how soon is soon. The time is given. Called by `tls`.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

const DAY_S: u64 = 24 * 60 * 60;
/// One that is good for so long is not warned of. Those who renew by themselves do it earlier.
const SOON: Duration = Duration::from_secs(14 * DAY_S);

/// What is worth saying of a certificate, in the words that follow its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It ends then, within so many whole days.
    Soon(SystemTime, u64),
    /// It ended then.
    Over(SystemTime),
    /// It begins then.
    Unbegun(SystemTime),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = |at: &SystemTime| humantime::format_rfc3339_seconds(*at);
        match self {
            Self::Soon(at, 0) => write!(f, "ends at {}, in less than a day: renew it", when(at)),
            Self::Soon(at, 1) => write!(f, "ends at {}, in a day: renew it", when(at)),
            Self::Soon(at, days) => write!(f, "ends at {}, in {days} days: renew it", when(at)),
            Self::Over(at) => write!(f, "ended at {}, and clients refuse it: renew it", when(at)),
            Self::Unbegun(at) => {
                write!(
                    f,
                    "begins at {}, and clients refuse it until then",
                    when(at)
                )
            }
        }
    }
}

/// What there is to say at `now` of a chain: whichever of it ends first makes an end of all, and whichever
/// begins last a beginning.
pub(super) fn ending(chain: &[CertificateDer<'_>], now: SystemTime) -> Option<Ending> {
    let end = chain.iter().filter_map(end).min();
    if let Some(end) = end.filter(|end| *end <= now) {
        return Some(Ending::Over(end));
    }
    let begin = chain.iter().filter_map(begin).max();
    if let Some(begin) = begin.filter(|begin| now < *begin) {
        return Some(Ending::Unbegun(begin));
    }
    let left = end?.duration_since(now).unwrap_or_default();
    (left < SOON).then(|| Ending::Soon(now + left, left.as_secs() / DAY_S))
}

/// rustls tells it in the error of a certificate that is over, so it is asked at the end of time.
fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    match refused(certificate, u64::MAX)? {
        CertificateError::ExpiredContext { not_after, .. } => time(not_after),
        _ => None,
    }
}

/// And of one that has not begun, so it is asked at the beginning of it.
fn begin(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    match refused(certificate, 0)? {
        CertificateError::NotValidYetContext { not_before, .. } => time(not_before),
        _ => None,
    }
}

/// Why a certificate is refused so many seconds after 1970.
fn refused(certificate: &CertificateDer<'_>, seconds: u64) -> Option<CertificateError> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let then = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let roots = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], then, &[]) {
        Err(Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn time(at: UnixTime) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::port::tls::certificates;

    #[test]
    fn whichever_ends_first_is_told_from_fourteen_days_before() {
        let chain = |names: &[&str]| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
            let read = names
                .iter()
                .map(|name| certificates(&folder.join(name)).unwrap());
            read.flatten().collect::<Vec<_>>()
        };
        let end = humantime::parse_rfc3339("2021-01-01T00:00:00Z").unwrap();
        let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
        let later = end + hours(1);
        for (names, now, told) in [
            (&["ended.pem"][..], end - SOON, None),
            (
                &["early.pem", "ended.pem"],
                end - hours(49),
                Some("00Z, in 2 days: renew it"),
            ),
            (
                &["ended.pem", "early.pem"],
                end - hours(25),
                Some("ends at 2021-01-01T00:00:00Z, in a day"),
            ),
            (&["ended.pem"], end - hours(1), Some("in less than a day")),
            (&["ended.pem"], later, Some("ended at 2021-01-01T00:00:00Z")),
            (&["early.pem"], later, None),
            (
                &["early.pem", "server.pem"],
                later,
                Some("begins at 2026-11-22T03:51:25Z, and clients refuse it until then"),
            ),
            (&["server.pem", "ended.pem"], later, Some("ended at 2021")),
            (&[], later, None),
        ] {
            let ending = ending(&chain(names), now).map(|ending| ending.to_string());
            let fits = match (&ending, told) {
                (Some(ending), Some(told)) => ending.contains(told),
                (ending, told) => ending.is_none() && told.is_none(),
            };
            assert!(fits, "{names:?}, {told:?}: {ending:?}");
        }
    }
}
