//! Hosts and origins: by which name a port is asked, and whose page asks.
//!
//! Owns the rule that keeps other web pages out: any page that somebody has open may dial this machine.
//! Pure. Called before anything of a request is acted on.

use std::net::IpAddr;

use http::header::{self, HeaderMap};

/// Which Host headers are answered.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// Only this machine reaches the port.
    pub is_loopback: bool,
    /// Names that are answered, with a port or without.
    pub listed: Vec<String>,
}

impl Hosts {
    fn admit(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let mut listed = self.listed.iter();
        is_loopback(host)
            || listed.any(|one| one.eq_ignore_ascii_case(host) || one.eq_ignore_ascii_case(name))
            || !self.is_loopback && self.listed.is_empty()
    }
}

/// Whether the request may read: on loopback its Host must be this machine by a name that no other page
/// can claim (else a name that is made to point here would do), and a page that asks must be ours or
/// one that is listed.
///
/// # Errors
/// Why not, in words.
pub fn allow(headers: &HeaderMap, hosts: &Hosts, origins: &[String]) -> Result<(), String> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .ok_or("the request has no readable Host header")?;
    if !hosts.admit(host) {
        return Err(match hosts.is_loopback && hosts.listed.is_empty() {
            true => format!("Host `{host}` is not this machine; use localhost or 127.0.0.1"),
            false => format!("Host `{host}` is not in `hosts:` of the pipeline"),
        });
    }
    let mut origin = headers.get_all(header::ORIGIN).iter();
    let Some(first) = origin.next() else {
        return Ok(());
    };
    let first = first.to_str().unwrap_or_default();
    let own = first
        .strip_prefix("http://")
        .or_else(|| first.strip_prefix("https://"))
        .is_some_and(|own| own.eq_ignore_ascii_case(host));
    let listed = origins
        .iter()
        .any(|listed| listed.eq_ignore_ascii_case(first));
    if origin.next().is_none() && (own || listed) {
        Ok(())
    } else {
        Err(format!(
            "pages of `{first}` may not read this; `origins:` in the pipeline lists those that may"
        ))
    }
}

/// Whether a request asks for this machine by a name that means no other.
pub fn names_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST);
    host.and_then(|host| host.to_str().ok())
        .is_some_and(is_loopback)
}

/// Whether a Host header names this machine, whatever the port.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: Option<&str>, origins: &[&str]) -> bool {
        let hosts = Hosts {
            is_loopback: true,
            listed: Vec::new(),
        };
        allowed_by(&hosts, host, origins)
    }

    fn allowed_by(hosts: &Hosts, host: Option<&str>, origins: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().expect("a header"));
        }
        for origin in origins {
            headers.append(header::ORIGIN, origin.parse().expect("a header"));
        }
        allow(&headers, hosts, &["https://dashboard.example".to_owned()]).is_ok()
    }

    #[test]
    fn only_this_machine_by_its_own_names_is_a_host() {
        for host in [
            "localhost",
            "LOCALHOST:9400",
            "127.0.0.1:1",
            "[::1]:9400",
            "127.9.9.9",
        ] {
            assert!(allowed(Some(host), &[]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:9400",
            "127.0.0.1.evil.example",
            "192.168.0.1:9400",
            "0.0.0.0",
            "user@evil.example",
            "",
        ] {
            assert!(!allowed(Some(host), &[]), "{host}");
        }
        assert!(!allowed(None, &[]));
    }

    #[test]
    fn other_hosts_are_those_that_are_listed_or_any_where_others_reach_the_port() {
        let hosts = |is_loopback, listed: &[&str]| Hosts {
            is_loopback,
            listed: listed.iter().map(|one| (*one).to_owned()).collect(),
        };
        for (hosts, host, expected) in [
            (hosts(false, &[]), "any.example:9400", true),
            (hosts(false, &["a.example"]), "A.example:9400", true),
            (hosts(false, &["a.example:1"]), "a.example:1", true),
            (hosts(false, &["a.example:1"]), "a.example:2", false),
            (hosts(false, &["a.example"]), "b.example", false),
            (hosts(true, &["a.example"]), "a.example", true),
            (hosts(true, &["a.example"]), "localhost:9400", true),
            (hosts(true, &["a.example"]), "b.example", false),
        ] {
            assert_eq!(
                allowed_by(&hosts, Some(host), &[]),
                expected,
                "{hosts:?} {host}"
            );
        }
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let host = Some("localhost:9400");
        for origin in ["http://localhost:9400", "https://dashboard.example"] {
            assert!(allowed(host, &[origin]), "{origin}");
        }
        for origin in [
            "http://localhost:8080",
            "http://127.0.0.1:9400",
            "https://evil.example",
            "null",
            "",
            "http://localhost:9400.evil.example",
        ] {
            assert!(!allowed(host, &[origin]), "{origin}");
        }
        let twice = ["http://localhost:9400", "https://evil.example"];
        assert!(!allowed(host, &twice));
    }
}
