//! How a server is reached: address, headers, subprotocols, TLS, proxy; as written and as checked.
//!
//! Owns those keys and what can be known to be wrong about them before anything is dialled (I6). Does no
//! I/O: `tls` opens the files and `connect` the addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::address::{Address, ProxyAddress};
use crate::driver::{Facts, Problem};
use crate::units::{AsWritten, ByteSize, Secret, Span};

/// Longest attempt to connect where nothing else is said.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest message of the server where nothing else is said.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// All that one attempt to connect has to know.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(super) address: Address,
    /// Handshake headers; values are marked sensitive, so that `Debug` hides them (I7).
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Subprotocols to offer, best first.
    pub(super) subprotocols: Vec<String>,
    /// A server that chooses none of them is taken all the same.
    pub(super) subprotocol_optional: bool,
    pub(super) tls: TlsPlan,
    pub(super) proxy: ProxyPlan,
    /// Longest time for one attempt, all layers together.
    pub(super) connect_timeout: Duration,
    /// Longest message that the server may send.
    pub(super) message_bytes_max: usize,
}

impl Endpoint {
    /// The endpoint at an address, with nothing set.
    pub(super) fn at(address: Address) -> Self {
        Self {
            address,
            headers: Vec::new(),
            subprotocols: Vec::new(),
            subprotocol_optional: false,
            tls: TlsPlan::default(),
            proxy: ProxyPlan::Environment,
            connect_timeout: CONNECT_TIMEOUT,
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }
}

/// Without credentials.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The keys of a config that say how a server is reached, as they are written. (Not flattened into the
/// configs: serde and JSON Schema then no longer know which keys are unknown.)
pub struct Written<'a> {
    /// `url`
    pub url: &'a Secret,
    /// `headers`
    pub headers: &'a Headers,
    /// `subprotocols`
    pub subprotocols: &'a [String],
    /// `tls`
    pub tls: Option<&'a TlsKeys>,
    /// `proxy`
    pub proxy: Option<&'a Secret>,
    /// `connect_timeout`
    pub connect_timeout: Span,
    /// `message_max`
    pub message_max: ByteSize,
}

impl Written<'_> {
    /// What they mean; what is wrong goes to `problems`. `None` where the address is.
    pub fn check(&self, facts: &Facts, problems: &mut Vec<Problem>) -> Option<Endpoint> {
        let address = Address::parse(self.url.reveal())
            .map(|address| address.written_as(facts.written.get("/url")))
            .map_err(|wrong| {
                let help = "write it like wss://host/path, or ws://host:port/path without TLS";
                problems.push(Problem::error("/url", wrong).help(help));
            })
            .ok();
        let headers = headers(self.headers, problems);
        subprotocols(self.subprotocols, problems);
        let tls = tls(self.tls, address.as_ref(), facts, problems);
        let proxy = proxy(self.proxy, problems);
        if self.message_max.0 == 0 {
            let help = "a bound lets something through; leave the key out for the default";
            problems.push(
                Problem::error("/message_max", "`message_max` must be at least 1").help(help),
            );
        }
        if self.connect_timeout.0.is_zero() {
            let message = "`connect_timeout` must be longer than 0";
            problems.push(
                Problem::error("/connect_timeout", message)
                    .help("every wait is bounded: give it a time, such as 30s"),
            );
        }
        Some(Endpoint {
            headers,
            subprotocols: self.subprotocols.to_vec(),
            tls,
            proxy,
            connect_timeout: self.connect_timeout.0,
            message_bytes_max: self.message_max.0 as usize,
            ..Endpoint::at(address?)
        })
    }
}

impl Endpoint {
    /// Offers a subprotocol that the server need not choose.
    pub fn offer_optionally(&mut self, subprotocol: &str) {
        self.offer(subprotocol);
        self.subprotocol_optional = true;
    }

    /// Offers a subprotocol that the server has to take.
    pub fn offer(&mut self, subprotocol: &str) {
        self.subprotocols = vec![subprotocol.to_owned()];
    }

    /// Takes what says who we are, and whom to trust, from another reading of the same config.
    pub(super) fn take_credentials(&mut self, today: Self) {
        self.headers = today.headers;
        self.address.authorization = today.address.authorization;
        // A token may be in the query.
        self.address.path_and_query = today.address.path_and_query;
        self.proxy = today.proxy;
        self.tls = today.tls;
    }
}

/// Headers, in either of the two ways in which they are written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Headers {
    /// `- Name: value`
    List(Vec<BTreeMap<String, AsWritten>>),
    /// `Name: value`
    Map(BTreeMap<String, AsWritten>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Map(BTreeMap::new())
    }
}

/// TLS of a `wss://` address.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsKeys {
    /// PEM file of the authorities to trust instead of the system's.
    ca: Option<String>,
    /// PEM file of a client certificate (and its chain).
    cert: Option<String>,
    /// PEM file of the client certificate's key.
    key: Option<String>,
    /// Name to ask for and to verify instead of the host in `url`.
    server_name: Option<String>,
}

/// Files and names for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsPlan {
    /// Authorities instead of the system's.
    pub(super) ca: Option<PathBuf>,
    /// Client certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// Name instead of the host.
    pub(super) server_name: Option<String>,
}

/// Which proxy to go through.
#[derive(Clone, Debug)]
pub(super) enum ProxyPlan {
    /// What the environment says.
    Environment,
    /// None.
    Direct,
    /// This one.
    Through(ProxyAddress),
}

/// Headers that the handshake sets itself.
const RESERVED: &[&str] = &[
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
];

fn headers(written: &Headers, problems: &mut Vec<Problem>) -> Vec<(HeaderName, HeaderValue)> {
    let entries: Vec<(String, &String, &AsWritten)> = match written {
        Headers::Map(map) => map
            .iter()
            .map(|(name, value)| (format!("/headers/{}", escape(name)), name, value))
            .collect(),
        Headers::List(list) => list
            .iter()
            .enumerate()
            .flat_map(|(index, map)| {
                map.iter().map(move |(name, value)| {
                    (format!("/headers/{index}/{}", escape(name)), name, value)
                })
            })
            .collect(),
    };
    let mut headers = Vec::with_capacity(entries.len());
    for (pointer, name, value) in entries {
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            let message = format!("`{name}` is not a header name");
            problems.push(Problem::error(pointer, message));
            continue;
        };
        if RESERVED.contains(&parsed.as_str()) {
            let message = format!("`{name}` is set by the WebSocket handshake itself");
            problems.push(Problem::error(pointer, message).help("remove it"));
            continue;
        }
        if parsed.as_str() == "sec-websocket-protocol" {
            let message = format!("`{name}` is written as `subprotocols`");
            problems.push(
                Problem::error(pointer, message).help("write `subprotocols: [NAME]` instead"),
            );
            continue;
        }
        match HeaderValue::from_str(value.0.reveal()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.push((parsed, value));
            }
            // The value itself may be a secret, so the message does not show it (I7).
            Err(_) => problems.push(
                Problem::error(pointer, format!("the value of `{name}` cannot be sent"))
                    .help("it has a line break or a character that headers do not allow"),
            ),
        }
    }
    headers
}

/// Subprotocol names that cannot be sent.
fn subprotocols(names: &[String], problems: &mut Vec<Problem>) {
    for (index, name) in names.iter().enumerate() {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            problems.push(Problem::error(
                format!("/subprotocols/{index}"),
                format!("`{name}` is not a subprotocol name: it must be a token without spaces"),
            ));
        }
    }
}

/// A key as a part of a JSON pointer.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn tls(
    keys: Option<&TlsKeys>,
    address: Option<&Address>,
    facts: &Facts,
    problems: &mut Vec<Problem>,
) -> TlsPlan {
    let Some(keys) = keys else {
        return TlsPlan::default();
    };
    if address.is_some_and(|address| !address.secure) {
        problems.push(
            Problem::error("/tls", "`tls` means nothing with a ws:// address")
                .help("use wss://, or remove `tls`"),
        );
    }
    let identity = match (&keys.cert, &keys.key) {
        (Some(cert), Some(key)) => Some((facts.path(cert), facts.path(key))),
        (None, None) => None,
        (Some(_), None) => {
            problems.push(Problem::error("/tls/cert", "`cert` needs `key`"));
            None
        }
        (None, Some(_)) => {
            problems.push(Problem::error("/tls/key", "`key` needs `cert`"));
            None
        }
    };
    if let Some(name) = &keys.server_name
        && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
    {
        let message = format!("`{name}` is not a host name");
        problems.push(Problem::error("/tls/server_name", message));
    }
    TlsPlan {
        ca: keys.ca.as_ref().map(|path| facts.path(path)),
        identity,
        server_name: keys.server_name.clone(),
    }
}

fn proxy(written: Option<&Secret>, problems: &mut Vec<Problem>) -> ProxyPlan {
    match written.map(Secret::reveal) {
        None => ProxyPlan::Environment,
        Some("none") => ProxyPlan::Direct,
        Some(url) => match ProxyAddress::parse(url) {
            Ok(address) => ProxyPlan::Through(address),
            Err(wrong) => {
                problems.push(Problem::error("/proxy", wrong));
                ProxyPlan::Direct
            }
        },
    }
}
