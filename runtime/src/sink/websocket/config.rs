//! The config of the client form (`url:`), and its check.
//!
//! Owns the keys as users write them (these comments are the reference) and what can be known to be
//! wrong before the first record (I6). Does no I/O: files and addresses are opened by `client`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::address::{Address, ProxyAddress};
use super::session::{Confirm, Rules};
use crate::driver::{self, Facts, Problem};
use crate::sink::framing::{BatchBounds, Batching, Carrier, Framing};
use crate::units::{ByteSize, Secret, Span};

/// Push to a WebSocket server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// Address of the server: `ws://host:port/path` or `wss://…`.
    url: Secret,
    /// Headers of the handshake: a list of one-entry maps, or a map.
    #[serde(default)]
    headers: Headers,
    /// Subprotocols to offer, best first. The server must choose one of them.
    #[serde(default)]
    subprotocols: Vec<String>,
    /// What confirms a record: `pong` (the default), `message` or `written`; see docs/delivery.md.
    #[serde(default)]
    ack: AckKey,
    /// How much may be unconfirmed.
    #[serde(default)]
    window: Window,
    /// Small frames are coalesced for so long at most; a line that was idle never waits.
    #[serde(default = "flush")]
    flush: Span,
    /// Text or binary messages.
    #[serde(default)]
    format: Format,
    /// One record a message, lines of records, or JSON arrays of records.
    #[serde(default)]
    framing: FramingKey,
    /// When a message of several records is closed; for `ndjson` and `json-array`.
    batch: Option<Batch>,
    /// Wrap each record in `{"id","ts","key","data"}`.
    #[serde(default)]
    envelope: bool,
    /// Longest message. A longer record is rejected.
    #[serde(default = "frame_max")]
    frame_max: ByteSize,
    /// Longest time for one attempt to connect: DNS, TCP, proxy, TLS and handshake together.
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
    /// Longest time in which the connection takes no byte.
    #[serde(default = "write_timeout")]
    write_timeout: Span,
    /// Longest time in which nothing of what is unconfirmed is confirmed.
    #[serde(default = "confirm_timeout")]
    confirm_timeout: Span,
    /// Longest wait for the server's Close at the end.
    #[serde(default = "close_timeout")]
    close_timeout: Span,
    /// A Ping goes out when the server was silent for so long. `0` turns it off.
    #[serde(default = "ping_interval")]
    ping_interval: Span,
    /// Waits between attempts to connect.
    #[serde(default)]
    reconnect: Reconnect,
    /// Longest message that the server may send.
    #[serde(default = "message_max")]
    message_max: ByteSize,
    /// TLS of a `wss://` address.
    tls: Option<TlsKeys>,
    /// HTTP proxy to go through (`http://user:password@host:port`), or `none`. Without it the
    /// environment decides: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`.
    proxy: Option<Secret>,
}

fn flush() -> Span {
    Span(Duration::from_millis(10))
}
fn frame_max() -> ByteSize {
    ByteSize(16 << 20)
}
fn connect_timeout() -> Span {
    Span(Duration::from_secs(10))
}
fn write_timeout() -> Span {
    Span(Rules::default().write_timeout)
}
fn confirm_timeout() -> Span {
    Span(Rules::default().confirm_timeout)
}
fn close_timeout() -> Span {
    Span(Rules::default().close_timeout)
}
fn ping_interval() -> Span {
    Span(Rules::default().ping_interval)
}
fn message_max() -> ByteSize {
    ByteSize(1 << 20)
}

/// Headers, in either of the two ways in which they are written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Headers {
    /// `- Name: value`
    List(Vec<BTreeMap<String, HeaderText>>),
    /// `Name: value`
    Map(BTreeMap<String, HeaderText>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Map(BTreeMap::new())
    }
}

/// A header's value; YAML may read it as a number or a truth value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum HeaderText {
    /// As written.
    Text(Secret),
    /// `X-Shard: 7`
    Number(serde_json::Number),
    /// `X-Trial: true`
    Truth(bool),
}

impl HeaderText {
    fn reveal(&self) -> String {
        match self {
            Self::Text(text) => text.reveal().to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum AckKey {
    /// One of the levels by name.
    Level(Level),
    /// The server's own messages, found by their content.
    Message(MessageAck),
}

impl Default for AckKey {
    fn default() -> Self {
        Self::Level(Level::Pong)
    }
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// The local kernel took the record.
    Written,
    /// The server's WebSocket stack answered a Ping behind the record.
    Pong,
    /// Each message of the server confirms one message of ours, in order.
    Message,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MessageAck {
    /// How the server's messages confirm.
    message: MessageKeys,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MessageKeys {
    /// JSON pointer to the value that confirms, in the server's message; messages without it confirm
    /// nothing. Alone: the value is how many messages of this connection the server has handled.
    pointer: String,
    /// JSON pointer to a record's own id. The server's value equals the id of a record and confirms
    /// that record and all before it.
    id: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Window {
    /// Most unconfirmed records.
    #[serde(default = "window_records")]
    records: u64,
    /// Most unconfirmed bytes.
    #[serde(default = "window_bytes")]
    bytes: ByteSize,
}

fn window_records() -> u64 {
    Rules::default().window_records_max
}
fn window_bytes() -> ByteSize {
    ByteSize(Rules::default().window_bytes_max)
}

impl Default for Window {
    fn default() -> Self {
        Self {
            records: window_records(),
            bytes: window_bytes(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Text messages; a record that is not UTF-8 is rejected.
    #[default]
    Text,
    /// Binary messages.
    Binary,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum FramingKey {
    /// One record a message.
    #[default]
    Record,
    /// Records separated by newlines; a record with a newline is rejected.
    Ndjson,
    /// A JSON array of records; a record that is not JSON is rejected.
    JsonArray,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Batch {
    /// Most records in a message (500).
    records: Option<usize>,
    /// Most bytes in a message (64KiB).
    bytes: Option<ByteSize>,
    /// Longest wait of the first record in a message (10ms).
    time: Option<Span>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reconnect {
    /// Bound of the first wait.
    #[serde(default = "reconnect_min")]
    min: Span,
    /// Bound of every wait.
    #[serde(default = "reconnect_max")]
    max: Span,
}

fn reconnect_min() -> Span {
    Span(Rules::default().backoff_min)
}
fn reconnect_max() -> Span {
    Span(Rules::default().backoff_max)
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            min: reconnect_min(),
            max: reconnect_max(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TlsKeys {
    /// PEM file of the authorities to trust instead of the system's.
    ca: Option<String>,
    /// PEM file of a client certificate (and its chain).
    cert: Option<String>,
    /// PEM file of the client certificate's key.
    key: Option<String>,
    /// Name to ask for and to verify instead of the host in `url`.
    server_name: Option<String>,
}

/// How the peer's messages confirm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    /// Each confirms the next frame.
    Order,
    /// The number at `pointer` counts the frames of this connection that are handled.
    Count { pointer: String },
    /// The value at `pointer` equals the value at `id` in a record.
    Id { pointer: String, id: String },
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

/// The checked config.
#[derive(Clone, Debug)]
pub(super) struct ClientPlan {
    pub(super) address: Address,
    /// Handshake headers; values are marked sensitive, so that `Debug` hides them (I7).
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) subprotocols: Vec<String>,
    pub(super) rules: Rules,
    pub(super) replies: Replies,
    pub(super) framing: Framing,
    pub(super) flush: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) message_bytes_max: usize,
    pub(super) tls: TlsPlan,
    pub(super) proxy: ProxyPlan,
    /// For reading the config again.
    pub(super) facts: Facts,
}

/// The schema of this form.
pub(super) fn schema() -> schemars::Schema {
    schemars::schema_for!(Config)
}

/// Checks the client form.
pub(super) fn check(config: Value, facts: &Facts) -> Result<ClientPlan, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let mut problems = Vec::new();
    let address = Address::parse(config.url.reveal())
        .map_err(|wrong| problems.push(Problem::error("/url", wrong)));
    let headers = headers(&config.headers, &mut problems);
    for (index, name) in config.subprotocols.iter().enumerate() {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            problems.push(Problem::error(
                format!("/subprotocols/{index}"),
                format!("`{name}` is not a subprotocol name: it must be a token without spaces"),
            ));
        }
    }
    let (confirm, replies) = ack(&config.ack, &mut problems);
    let framing = framing(&config, &mut problems);
    durations(&config, &mut problems);
    let tls = tls(
        config.tls.as_ref(),
        address.as_ref().ok(),
        facts,
        &mut problems,
    );
    let proxy = proxy(config.proxy.as_ref(), &mut problems);
    match address {
        Ok(address) if problems.iter().all(|problem| problem.warning) => Ok(ClientPlan {
            address,
            headers,
            subprotocols: config.subprotocols,
            rules: Rules {
                dials: true,
                confirm,
                window_records_max: config.window.records,
                window_bytes_max: config.window.bytes.0,
                write_timeout: config.write_timeout.0,
                confirm_timeout: config.confirm_timeout.0,
                close_timeout: config.close_timeout.0,
                ping_interval: config.ping_interval.0,
                ping_gap: config.flush.0,
                backoff_min: config.reconnect.min.0,
                backoff_max: config.reconnect.max.0,
            },
            replies,
            framing,
            flush: config.flush.0,
            connect_timeout: config.connect_timeout.0,
            message_bytes_max: config.message_max.0 as usize,
            tls,
            proxy,
            facts: facts.clone(),
        }),
        _ => Err(problems),
    }
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
    let entries: Vec<(String, &String, &HeaderText)> = match written {
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
        match HeaderValue::from_str(&value.reveal()) {
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

/// A key as a part of a JSON pointer.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn ack(written: &AckKey, problems: &mut Vec<Problem>) -> (Confirm, Replies) {
    let keys = match written {
        AckKey::Level(Level::Written) => return (Confirm::Written, Replies::Order),
        AckKey::Level(Level::Pong) => return (Confirm::Pong, Replies::Order),
        AckKey::Level(Level::Message) => return (Confirm::Message, Replies::Order),
        AckKey::Message(MessageAck { message }) => message,
    };
    let pointers = [("pointer", Some(&keys.pointer)), ("id", keys.id.as_ref())];
    for (key, pointer) in pointers {
        if let Some(pointer) = pointer.filter(|pointer| !is_pointer(pointer)) {
            problems.push(
                Problem::error(
                    format!("/ack/message/{key}"),
                    format!("`{pointer}` is not a JSON pointer"),
                )
                .help(format!("start it with a slash: `/{pointer}`")),
            );
        }
    }
    let pointer = keys.pointer.clone();
    let replies = match keys.id.clone() {
        Some(id) => Replies::Id { pointer, id },
        None => Replies::Count { pointer },
    };
    (Confirm::Message, replies)
}

/// `""` points to the whole message, which may be a bare number.
fn is_pointer(text: &str) -> bool {
    text.is_empty() || text.starts_with('/')
}

fn framing(config: &Config, problems: &mut Vec<Problem>) -> Framing {
    let batch = config.batch.unwrap_or_default();
    if config.framing == FramingKey::Record && config.batch.is_some() {
        problems.push(
            Problem::error("/batch", "`batch` means nothing with one record a message")
                .help("set `framing: ndjson` or `framing: json-array`, or remove `batch`"),
        );
    }
    let bounds = BatchBounds {
        records_max: batch.records.unwrap_or(500),
        bytes_max: batch.bytes.unwrap_or(ByteSize(64 << 10)).0 as usize,
        wait: batch.time.unwrap_or_else(flush).0,
    };
    let frame_bytes_max = config.frame_max.0 as usize;
    let at_least_one = [
        ("/batch/records", bounds.records_max),
        ("/batch/bytes", bounds.bytes_max),
        ("/frame_max", frame_bytes_max),
        ("/window/records", config.window.records as usize),
        ("/window/bytes", config.window.bytes.0 as usize),
        ("/message_max", config.message_max.0 as usize),
    ];
    for (pointer, _) in at_least_one.iter().filter(|(_, value)| *value == 0) {
        let key = &pointer[1..].replace('/', ".");
        problems.push(Problem::error(
            *pointer,
            format!("`{key}` must be at least 1"),
        ));
    }
    if frame_bytes_max as u64 > 1 << 30 {
        problems.push(Problem::error("/frame_max", "a message is 1GiB at most"));
    }
    Framing {
        carrier: match config.format {
            Format::Text => Carrier::Text,
            Format::Binary => Carrier::Binary,
        },
        batch: match config.framing {
            FramingKey::Record => Batching::Record,
            FramingKey::Ndjson => Batching::Ndjson(bounds),
            FramingKey::JsonArray => Batching::JsonArray(bounds),
        },
        envelope: config.envelope,
        frame_bytes_max,
    }
}

fn durations(config: &Config, problems: &mut Vec<Problem>) {
    let above_zero = [
        ("connect_timeout", config.connect_timeout),
        ("write_timeout", config.write_timeout),
        ("confirm_timeout", config.confirm_timeout),
        ("close_timeout", config.close_timeout),
    ];
    for (key, _) in above_zero.iter().filter(|(_, span)| span.0.is_zero()) {
        problems.push(
            Problem::error(format!("/{key}"), format!("`{key}` must be longer than 0"))
                .help("every wait is bounded: give it a time, such as 30s"),
        );
    }
    if config.reconnect.min > config.reconnect.max {
        problems.push(Problem::error(
            "/reconnect/min",
            format!(
                "`reconnect.min` ({}) is longer than `reconnect.max` ({})",
                config.reconnect.min, config.reconnect.max
            ),
        ));
    }
    if config.reconnect.max.0.is_zero() {
        problems.push(Problem::error(
            "/reconnect/max",
            "`reconnect.max` must be longer than 0",
        ));
    }
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

#[cfg(test)]
mod tests;
