//! The `websocket` source: dials a server and takes its messages as records.
//!
//! Owns the config, what of it can be known to be wrong, and where a run begins. Never speaks to the
//! server: `intake` does, through the subscription that `wirefall subscribe` uses too. A server that
//! speaks `wirefall.v1` is another Wirefall, so runtimes chain: `trail` remembers the place there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::intake::{Intake, Taken};
use self::messages::Framing;
use self::trail::{Acked, Trail};
use super::{
    Committer, Forgetful, Oddities, Reader, Source, SourceContext, SourceError, SourcePlan,
};
use crate::checkpoint::Checkpoint;
use crate::driver::{self, BoxFuture, Driver, Facts, ProbeStep, Problem, on_one_line};
use crate::record::{Batch, Partition};
use crate::sink::websocket::endpoint::{self, Endpoint, Headers, TlsKeys, Written};
use crate::sink::websocket::probe::probe;
use crate::sink::websocket::protocol::{self, From, Keys, PLAIN, V1, Wanted};
use crate::sink::websocket::subscription::{Manner, Subscription};
use crate::units::{ByteSize, Secret, Span};

mod intake;
mod messages;
mod trail;

#[cfg(test)]
mod tests;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SourcePlan>> = Driver {
    name: "websocket",
    about: "messages of a WebSocket server, or the stream of another Wirefall",
    schema: |_| driver::inline_schema::<Config>(),
    check,
    ignored_keys: &[],
};

/// Batches read ahead of the pipeline (I4).
const AHEAD_MAX: usize = 2;

/// Dial a WebSocket server and take what it sends.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Address of the server: `ws://host:port/path` or `wss://…`.
    url: Secret,
    /// Headers of the handshake: a list of one-entry maps, or a map.
    #[serde(default)]
    headers: Headers,
    /// What the server speaks: `auto` offers `wirefall.v1` and takes whatever is chosen, `wirefall.v1`
    /// insists on it and goes on at its place over restarts, `plain` never asks. With `from`, `name` or
    /// `keys` it is `wirefall.v1`, with `subprotocols` or `open` `plain`, else `auto`.
    protocol: Option<Protocol>,
    /// Subprotocols to offer to a plain server, best first. It must choose one of them.
    #[serde(default)]
    subprotocols: Vec<String>,
    /// Text messages to tell a plain server first, each time it is dialled.
    #[serde(default)]
    open: Vec<Secret>,
    /// Where to begin the first time, of `wirefall.v1`: `earliest`, `latest`, `-N` (the newest N
    /// records) or a position; by default where the cursor of `name` stands, else `latest`.
    from: Option<String>,
    /// Name of a cursor that the server keeps, of `wirefall.v1`: it moves as records are safe here.
    name: Option<String>,
    /// Only records with one of these keys, of `wirefall.v1`.
    #[serde(default)]
    keys: Vec<String>,
    /// What a message holds: one record, lines of records, or a JSON array of records. A message that is
    /// no such array is a record itself.
    #[serde(default)]
    framing: Framing,
    /// Longest message that the server may send.
    #[serde(default = "message_max")]
    message_max: ByteSize,
    /// Longest time for one attempt to connect: DNS, TCP, proxy, TLS and handshake together.
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
    /// Waits between attempts to connect.
    #[serde(default)]
    reconnect: Reconnect,
    /// TLS of a `wss://` address.
    tls: Option<TlsKeys>,
    /// HTTP proxy to go through (`http://user:password@host:port`), or `none`. Without it the
    /// environment decides: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`; never for this machine itself.
    proxy: Option<Secret>,
}

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
enum Protocol {
    /// Whatever the server chooses.
    #[serde(rename = "auto")]
    Auto,
    /// Nothing but this.
    #[serde(rename = "wirefall.v1")]
    V1,
    /// Messages and nothing else.
    #[serde(rename = "plain")]
    Plain,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Reconnect {
    /// Bound of the first wait.
    min: Span,
    /// Bound of every wait.
    max: Span,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            min: Span(Duration::from_millis(100)),
            max: Span(Duration::from_secs(30)),
        }
    }
}

fn message_max() -> ByteSize {
    ByteSize(16 << 20)
}

fn connect_timeout() -> Span {
    Span(endpoint::CONNECT_TIMEOUT)
}

/// A checked `websocket` source.
#[derive(Clone, Debug)]
struct Plan {
    endpoint: Endpoint,
    protocol: Protocol,
    manner: Manner,
    framing: Framing,
    /// As written: what a remembered place is of.
    keys: Vec<String>,
    /// To read the config again.
    facts: Facts,
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SourcePlan>, Vec<Problem>> {
    Ok(Box::new(plan(config, facts)?))
}

fn plan(config: Value, facts: &Facts) -> Result<Plan, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let mut problems = Vec::new();
    let protocol = protocol_of(&config, &mut problems);
    let endpoint = Written {
        url: &config.url,
        headers: &config.headers,
        subprotocols: &config.subprotocols,
        tls: config.tls.as_ref(),
        proxy: config.proxy.as_ref(),
        connect_timeout: config.connect_timeout,
        message_max: config.message_max,
    }
    .check(facts, &mut problems);
    let wanted = wanted(&config, &mut problems);
    let Reconnect { min, max } = config.reconnect;
    if min > max || max.0.is_zero() {
        let message = format!("`reconnect` goes from {min} to {max}");
        problems.push(
            Problem::error("/reconnect", message)
                .help("`max` is longer than 0, and no shorter than `min`"),
        );
    }
    match endpoint {
        Some(mut endpoint) if problems.is_empty() => {
            if protocol == Protocol::Plain && config.subprotocols.is_empty() {
                endpoint.offer_optionally(PLAIN);
            }
            Ok(Plan {
                endpoint,
                protocol,
                manner: Manner {
                    wanted,
                    place: None,
                    insists: protocol == Protocol::V1,
                    opening: config.open,
                    plain_ends: false,
                    backoff: (min.0, max.0),
                },
                framing: config.framing,
                keys: config.keys,
                facts: facts.clone(),
            })
        }
        _ => Err(problems),
    }
}

/// The protocol that is written, or that the other keys mean.
fn protocol_of(config: &Config, problems: &mut Vec<Problem>) -> Protocol {
    let of_v1 = [
        ("from", config.from.is_some()),
        ("name", config.name.is_some()),
        ("keys", !config.keys.is_empty()),
    ];
    let of_plain = [
        ("subprotocols", !config.subprotocols.is_empty()),
        ("open", !config.open.is_empty()),
    ];
    let first = |keys: &[(&'static str, bool)]| {
        let mut written = keys.iter().filter(|(_, written)| *written);
        written.next().map(|(key, _)| *key)
    };
    let (of_v1, of_plain) = (first(&of_v1), first(&of_plain));
    let protocol = config.protocol.unwrap_or(match (of_v1, of_plain) {
        (Some(_), _) => Protocol::V1,
        (None, Some(_)) => Protocol::Plain,
        (None, None) => Protocol::Auto,
    });
    let foreign = [
        (of_v1, Protocol::V1, V1),
        (of_plain, Protocol::Plain, "plain"),
    ];
    for (key, belongs, name) in foreign {
        if let Some(key) = key.filter(|_| belongs != protocol) {
            let message = format!("`{key}` belongs to `protocol: {name}`");
            let help = format!("say `protocol: {name}`, or leave `{key}` out");
            problems.push(Problem::error(format!("/{key}"), message).help(help));
        }
    }
    protocol
}

fn wanted(config: &Config, problems: &mut Vec<Problem>) -> Wanted {
    let from = config.from.as_deref().map(From::written).transpose();
    let from = from.unwrap_or_else(|wrong| {
        problems.push(Problem::error("/from", wrong.to_string()));
        None
    });
    if let Some(name) = config
        .name
        .as_deref()
        .filter(|name| !protocol::is_name(name))
    {
        let message = format!("`{name}` cannot be the name of a cursor");
        let help = "a name is 1 to 64 of the characters A-Z a-z 0-9 . - _";
        problems.push(Problem::error("/name", message).help(help));
    }
    if config.keys.len() > protocol::KEYS_MAX {
        let message = format!("at most {} keys", protocol::KEYS_MAX);
        problems.push(Problem::error("/keys", message));
    }
    let fits = |key: &String| (1..=protocol::KEY_BYTES_MAX).contains(&key.len());
    if let Some(index) = config.keys.iter().position(|key| !fits(key)) {
        let message = format!("a key has 1 to {} bytes", protocol::KEY_BYTES_MAX);
        problems.push(Problem::error(format!("/keys/{index}"), message));
    }
    Wanted {
        from,
        name: config.name.clone(),
        keys: (!config.keys.is_empty()).then(|| Keys::new(config.keys.iter().cloned())),
    }
}

/// One, whatever server is dialled: its own numbering is `trail`'s to translate.
fn partition() -> Partition {
    Partition::new("websocket")
}

impl Plan {
    /// What the next runs go on by; only of a server that is certain to know places.
    fn trail(&self, context: &SourceContext) -> Result<Trail, SourceError> {
        if self.protocol != Protocol::V1 {
            let position = context.resume_at(&partition()).unwrap_or(0);
            return Ok(Trail::of_a_run(position));
        }
        let path: PathBuf = context.state_dir.join("place.json");
        Trail::open(
            path,
            &self.keys,
            context.fresh,
            context.resume_at(&partition()),
        )
    }
}

impl SourcePlan for Plan {
    fn describe(&self) -> String {
        format!("websocket {}", self.endpoint)
    }

    fn replayable(&self) -> bool {
        self.protocol == Protocol::V1
    }

    fn guarantee(&self) -> Option<String> {
        Some(match self.protocol {
            Protocol::V1 => {
                "the source goes on where it was, each record once, as far as its server still has \
                 them; what that has no longer is counted and told"
            }
            Protocol::Auto => {
                "what the source's server publishes while it is not connected is seen only where it \
                 speaks wirefall.v1, and only within a run (`protocol: wirefall.v1` insists on it)"
            }
            Protocol::Plain => {
                "what the source's server sends while it is not connected is not seen"
            }
        }
        .to_owned())
    }

    fn probe(&self) -> BoxFuture<'_, Vec<ProbeStep>> {
        let mut endpoint = self.endpoint.clone();
        match self.protocol {
            Protocol::V1 => endpoint.offer(V1),
            Protocol::Auto => endpoint.offer_optionally(V1),
            Protocol::Plain => {}
        }
        Box::pin(async move { probe(&endpoint).await })
    }

    fn open(&self, context: SourceContext) -> BoxFuture<'_, Result<Source, SourceError>> {
        Box::pin(async move {
            let trail = self.trail(&context)?;
            let begin = trail.begin();
            if begin.missing > 0 {
                tracing::warn!(
                    records = begin.missing,
                    "the journal ends before the place that the source remembers: so many are missing"
                );
            }
            let manner = Manner {
                place: begin.place.clone(),
                ..self.manner.clone()
            };
            let mut subscription =
                Subscription::of(self.endpoint.clone(), manner).map_err(|error| {
                    SourceError::Environment {
                        message: error.to_string(),
                    }
                })?;
            let (reread, facts) = (Arc::clone(&context.reread), self.facts.clone());
            subscription.renew_by(Box::new(move || {
                let today = plan(reread()?, &facts).map_err(on_one_line)?;
                Ok(today.endpoint)
            }));
            let mut start = Checkpoint::default();
            if begin.position > 0 {
                start.start_at(partition(), begin.position);
            }
            let (batches, received) = mpsc::channel(AHEAD_MAX);
            let (settled, settled_seen) = watch::channel(0);
            let (acked, acked_seen) = watch::channel(0);
            let closed = CancellationToken::new();
            let intake = Intake::new(
                subscription,
                trail.clone(),
                begin,
                self.framing,
                context.limits,
            );
            tokio::spawn(intake.run(batches, closed.clone(), settled_seen, acked));
            let committer: Box<dyn Committer> = match self.protocol {
                Protocol::Plain => Box::new(Forgetful),
                Protocol::V1 | Protocol::Auto => Box::new(Acknowledging {
                    trail,
                    settled,
                    acked: Acked::new(acked_seen),
                }),
            };
            Ok(Source {
                reader: Box::new(Messages {
                    received,
                    closed,
                    oddities: Oddities::default(),
                }),
                committer,
                start,
            })
        })
    }
}

/// The half that reads: what `intake` has gathered.
struct Messages {
    received: mpsc::Receiver<Taken>,
    closed: CancellationToken,
    oddities: Oddities,
}

impl Reader for Messages {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, SourceError>> {
        Box::pin(async {
            match self.received.recv().await {
                None => Ok(None),
                Some(taken) => {
                    self.oddities = taken.oddities;
                    taken.batch
                }
            }
        })
    }

    fn close(&mut self) {
        self.closed.cancel();
    }

    fn oddities(&self) -> Oddities {
        self.oddities
    }
}

/// The half that commits: it remembers the place, and then the server is told.
struct Acknowledging {
    trail: Trail,
    settled: watch::Sender<u64>,
    acked: Acked,
}

impl Committer for Acknowledging {
    fn commit<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let Some(position) = checkpoint.position(&partition()) else {
                return Ok(());
            };
            self.trail.settle(position)?;
            // I1: only now, when nothing of it is asked for again.
            self.settled.send_replace(position);
            self.acked.wait(position).await;
            Ok(())
        })
    }
}
