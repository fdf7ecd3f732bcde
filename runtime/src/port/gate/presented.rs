//! What a request shows: its credential, and where it comes from.
//!
//! Owns the ways in which a credential may be sent, and the one in which it may not. Decides nothing and
//! keeps nothing; pure. Called by `gate`.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap};

use crate::credentials::secret;
use crate::port::network::Network;
use crate::port::tokens;
use crate::units::Secret;

/// A subprotocol entry that carries a secret, because a script in a browser can set no header.
const SECRET_ENTRY: &str = "wirefall.secret.";
/// The same with a ticket.
const TICKET_ENTRY: &str = "wirefall.ticket.";
/// Names under which people put credentials into addresses.
const QUERY_NAMES: &[&str] = &[
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "credential",
    "key",
    "password",
    "secret",
    "ticket",
    "token",
];
/// Headers by which proxies tell that a request is somebody else's.
const FORWARDED: &[&str] = &["forwarded", "via", "x-forwarded-for", "x-real-ip"];

/// What a request shows.
#[derive(Clone, Debug)]
pub enum Presented {
    /// No credential.
    Nothing,
    /// A secret, with the ID of its credential or alone.
    Secret {
        /// Of Basic authorization.
        id: Option<String>,
        /// Whatever stands where a secret should.
        secret: Secret,
    },
    /// A ticket.
    Ticket(Secret),
    /// A credential in the address, where proxies, logs and histories keep it (I7).
    InQuery,
    /// An Authorization header of no kind that is known here.
    Unreadable,
}

/// The credential that a request shows. An entry among the subprotocols counts before a header: a
/// browser adds headers by itself, for a proxy's sake, and entries only where a script wants them.
pub fn presented(query: Option<&str>, headers: &HeaderMap) -> Presented {
    if query.is_some_and(has_credential) {
        return Presented::InQuery;
    }
    for entry in tokens(headers, header::SEC_WEBSOCKET_PROTOCOL) {
        if let Some(secret) = entry.strip_prefix(SECRET_ENTRY) {
            let secret = Secret::new(secret);
            return Presented::Secret { id: None, secret };
        }
        if let Some(ticket) = entry.strip_prefix(TICKET_ENTRY) {
            return Presented::Ticket(Secret::new(ticket));
        }
    }
    match headers.get(header::AUTHORIZATION) {
        None => Presented::Nothing,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(authorization)
            .unwrap_or(Presented::Unreadable),
    }
}

fn authorization(value: &str) -> Option<Presented> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        let secret = Secret::new(rest);
        return Some(Presented::Secret { id: None, secret });
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some(Presented::Secret {
        id: Some(id.to_owned()),
        secret: Secret::new(secret),
    })
}

fn has_credential(query: &str) -> bool {
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = name.to_ascii_lowercase();
        QUERY_NAMES.contains(&name.as_str())
            || secret::looks_like_one(&name)
            || secret::looks_like_one(value)
    })
}

/// Whether a script is likely to be behind it, which sees nothing of a refusal but a Close.
pub fn is_of_a_script(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN)
        || tokens(headers, header::SEC_WEBSOCKET_PROTOCOL)
            .any(|entry| entry.starts_with(SECRET_ENTRY) || entry.starts_with(TICKET_ENTRY))
}

/// Whether a proxy says that it passes the request on.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// The address that a request comes from: the peer's, or where that is a trusted proxy, the last one in
/// X-Forwarded-For that is none.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    let peer = peer.to_canonical();
    if !is_trusted(peer) {
        return peer;
    }
    let named = headers.get_all("x-forwarded-for").iter();
    let named: Vec<&str> = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let mut client = peer;
    for named in named.into_iter().rev() {
        // What a proxy did not write as an address was not written by a proxy.
        let Ok(address) = named.trim().parse::<IpAddr>() else {
            break;
        };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn shown(query: Option<&str>, pairs: &[(&'static str, &str)]) -> String {
        match presented(query, &headers(pairs)) {
            Presented::Nothing => "nothing".to_owned(),
            Presented::Secret { id, secret } => {
                format!("{}:{}", id.unwrap_or_default(), secret.reveal())
            }
            Presented::Ticket(ticket) => format!("ticket {}", ticket.reveal()),
            Presented::InQuery => "query".to_owned(),
            Presented::Unreadable => "unreadable".to_owned(),
        }
    }

    #[test]
    fn a_credential_is_found_wherever_it_may_be() {
        let protocols = "sec-websocket-protocol";
        for (pairs, expected) in [
            (vec![], "nothing"),
            (vec![("authorization", "Bearer wf_a")], ":wf_a"),
            (vec![("authorization", "bearer  wf_a ")], ":wf_a"),
            (vec![("authorization", "Basic aWQ6d2ZfYQ==")], "id:wf_a"),
            (vec![("authorization", "Basic aWQ6YTpi")], "id:a:b"),
            (
                vec![(protocols, "wirefall.v1, wirefall.secret.wf_a")],
                ":wf_a",
            ),
            (
                vec![(protocols, "wirefall.ticket.t"), (protocols, "x")],
                "ticket t",
            ),
            (
                vec![
                    ("authorization", "Basic aWQ6d2ZfYQ=="),
                    (protocols, "wirefall.ticket.t"),
                ],
                "ticket t",
            ),
            (vec![("authorization", "Digest x")], "unreadable"),
            (vec![("authorization", "Basic ???")], "unreadable"),
            (vec![("authorization", "wf_a")], "unreadable"),
            (vec![(protocols, "wirefall.plain")], "nothing"),
        ] {
            assert_eq!(shown(None, &pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn i7_a_credential_in_an_address_is_noticed() {
        for query in [
            "token=x",
            "a=b&Ticket=x",
            "x=wf_abc",
            "wf_abc",
            "access_token=",
        ] {
            assert_eq!(shown(Some(query), &[]), "query", "{query}");
        }
        for query in ["", "tab=2", "monkey=1", "x=awf_"] {
            assert_eq!(shown(Some(query), &[]), "nothing", "{query}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_whom_it_speaks_for() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let trusted = ["10.0.0.1", "10.0.0.2", "2001:db8::/32"].map(|text| text.parse().unwrap());
        for (peer, forwarded, expected) in [
            ("192.0.2.9", vec!["198.51.100.7"], "192.0.2.9"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
            // What the client itself wrote stands to the left, and counts for nothing.
            (
                "10.0.0.1",
                vec!["127.0.0.1, 198.51.100.7, 10.0.0.2"],
                "198.51.100.7",
            ),
            (
                "10.0.0.1",
                vec!["127.0.0.1", "198.51.100.7"],
                "198.51.100.7",
            ),
            ("10.0.0.1", vec!["127.0.0.1, unknown"], "10.0.0.1"),
            ("::ffff:10.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
            ("2001:db9::1", vec!["198.51.100.7"], "2001:db9::1"),
            (
                "2001:db8::1",
                vec!["127.0.0.1, 198.51.100.7, 2001:db8:1::2"],
                "198.51.100.7",
            ),
        ] {
            let pairs: Vec<_> = forwarded
                .iter()
                .map(|one| ("x-forwarded-for", *one))
                .collect();
            let client = client(address(peer), &headers(&pairs), &trusted);
            assert_eq!(client, address(expected), "{peer} {forwarded:?}");
        }
    }
}
