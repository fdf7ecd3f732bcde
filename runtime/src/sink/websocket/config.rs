//! The config of the client form (`url:`), and its check.
//!
//! Owns the keys as users write them (these comments are the reference) and what can be known to be
//! wrong before the first record (I6). Does no I/O.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::endpoint::{self, Endpoint, Headers, TlsKeys, Written};
use super::framing_keys::{self, Batch, Format, Frames, FramingKeys};
use super::protocol::V1;
use super::session::{Confirm, Rules};
use crate::driver::{self, Facts, Problem};
use crate::sink::framing::Framing;
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
    /// What confirms a record: `pong` (the default), `message`, `wirefall.v1` or `written`; see
    /// docs/delivery.md.
    #[serde(default)]
    ack: AckKey,
    /// How much may be unconfirmed.
    #[serde(default)]
    window: Window,
    /// Small frames are coalesced for so long at most; a line that was idle never waits.
    #[serde(default = "framing_keys::flush")]
    flush: Span,
    /// Text or binary messages.
    #[serde(default)]
    format: Format,
    /// One record a message, lines of records, or JSON arrays of records.
    #[serde(default)]
    framing: Frames,
    /// When a message of several records is closed; for `ndjson` and `json-array`.
    batch: Option<Batch>,
    /// Wrap each record in `{"id","ts","key","data"}`.
    #[serde(default)]
    envelope: bool,
    /// Longest message, and half of `journal.bytes` at most. A longer record is rejected.
    #[serde(default = "framing_keys::frame_max")]
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
    /// environment decides: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`; never for this machine itself.
    proxy: Option<Secret>,
}

fn connect_timeout() -> Span {
    Span(endpoint::CONNECT_TIMEOUT)
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
    ByteSize(endpoint::MESSAGE_BYTES_MAX as u64)
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
    /// The server keeps its place and says what is safe: docs/protocol.md.
    #[serde(rename = "wirefall.v1")]
    V1,
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

/// The checked config.
#[derive(Clone, Debug)]
pub(super) struct ClientPlan {
    pub(super) endpoint: Endpoint,
    pub(super) rules: Rules,
    pub(super) replies: Replies,
    pub(super) framing: Framing,
    pub(super) flush: Duration,
    /// For reading the config again.
    pub(super) facts: Facts,
}

/// The schema of this form.
pub(super) fn schema() -> schemars::Schema {
    driver::inline_schema::<Config>()
}

/// Checks the client form.
pub(super) fn check(config: Value, facts: &Facts) -> Result<ClientPlan, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let mut problems = Vec::new();
    let subprotocols = match config.ack {
        AckKey::Level(Level::V1) => vec![V1.to_owned()],
        _ => config.subprotocols.clone(),
    };
    if subprotocols != config.subprotocols && !config.subprotocols.is_empty() {
        let message = "`ack: wirefall.v1` is a subprotocol of its own, and no other can be offered";
        problems.push(
            Problem::error("/subprotocols", message)
                .help("leave `subprotocols` out, or take another `ack`"),
        );
    }
    let endpoint = Written {
        url: &config.url,
        headers: &config.headers,
        subprotocols: &subprotocols,
        tls: config.tls.as_ref(),
        proxy: config.proxy.as_ref(),
        connect_timeout: config.connect_timeout,
        message_max: config.message_max,
    }
    .check(facts, &mut problems);
    let (confirm, replies) = ack(&config.ack, &mut problems);
    let framing = FramingKeys {
        format: config.format,
        framing: config.framing,
        batch: config.batch,
        envelope: config.envelope,
        frame_max: config.frame_max,
    }
    .check(&mut problems);
    bounds(&config, &mut problems);
    durations(&config, &mut problems);
    match endpoint {
        Some(endpoint) if problems.iter().all(|problem| problem.warning) => Ok(ClientPlan {
            endpoint,
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
            facts: facts.clone(),
        }),
        _ => Err(problems),
    }
}

fn ack(written: &AckKey, problems: &mut Vec<Problem>) -> (Confirm, Replies) {
    let keys = match written {
        AckKey::Level(Level::Written) => return (Confirm::Written, Replies::Order),
        AckKey::Level(Level::Pong) => return (Confirm::Pong, Replies::Order),
        AckKey::Level(Level::Message) => return (Confirm::Message, Replies::Order),
        AckKey::Level(Level::V1) => return (Confirm::Place, Replies::Order),
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

fn bounds(config: &Config, problems: &mut Vec<Problem>) {
    let at_least_one = [
        ("/window/records", config.window.records),
        ("/window/bytes", config.window.bytes.0),
    ];
    for (pointer, _) in at_least_one.iter().filter(|(_, value)| *value == 0) {
        let key = &pointer[1..].replace('/', ".");
        let message = format!("`{key}` must be at least 1");
        let help = "a bound lets something through; leave the key out for the default";
        problems.push(Problem::error(*pointer, message).help(help));
    }
}

fn durations(config: &Config, problems: &mut Vec<Problem>) {
    let above_zero = [
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

#[cfg(test)]
mod tests;
