//! The `http` source: takes records that are posted to it, and answers when they are safe.
//!
//! Owns the config and the two halves of the source. An answer of 200 is given by the engine's commit and
//! by nothing else (I1); whoever has none posts again. `serve` speaks HTTP, `body` finds the records,
//! `desk` knows who waits for what, `keys` which posts have been taken before (`keys_file` or `keys_table`
//! keeps them, by what `intent` says they become), `outcome` what they are told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::body::{Bounds, Cut};
use self::desk::{Desk, Posted};
use self::keep::Keep;
use self::keys::Keys;
use self::keys_file::KeysFile;
use self::keys_table::KeysTable;
use self::serve::Server;
use super::{BatchLimits, Committer, Reader, Source, SourceContext, SourceError, SourcePlan};
use crate::checkpoint::Checkpoint;
use crate::driver::{self, BoxFuture, Driver, Facts, ProbeStep, Problem, within};
use crate::port::door::Door;
use crate::port::gate::Gate;
use crate::port::keys::{Auth, PortPlan, TlsKeys, Written, escape, wrong_path};
use crate::port::probe::probe;
use crate::port::tls::Tls;
use crate::record::{Batch, Column, Partition, Records};
use crate::units::{ByteSize, Span};

mod body;
mod desk;
mod intent;
mod keep;
mod keys;
mod keys_file;
mod keys_table;
mod outcome;
mod serve;

#[cfg(test)]
mod tests;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SourcePlan>> = Driver {
    name: "http",
    about: "records that are posted: one, lines, or a JSON array; answered when they are safe",
    schema: |_| driver::inline_schema::<Config>(),
    check,
    ignored_keys: &[],
};

/// Listen for posts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Address and port, as 127.0.0.1:9300 or 0.0.0.0:443; port 0 takes a free one. What other machines
    /// reach needs credentials and TLS.
    listen: String,
    /// Path to post to; /v1/ingest/ and the pipeline's name by default.
    path: Option<String>,
    /// Whether whoever posts has to show a credential that allows `ingest` (`wirefall credentials`):
    /// `none` or `required`; by default `none` on loopback and `required` elsewhere. See
    /// docs/operations.md.
    auth: Option<Auth>,
    /// TLS of the port.
    tls: Option<TlsKeys>,
    /// Listen without TLS although other machines reach the port, because a proxy before it has TLS.
    #[serde(default)]
    insecure: bool,
    /// Host names by which the port is reached, as records.example.com; without any, every name is
    /// answered where other machines reach the port, and this machine's own on loopback.
    #[serde(default)]
    hosts: Vec<String>,
    /// Web origins whose pages may post, as https://example.com.
    #[serde(default)]
    origins: Vec<String>,
    /// Addresses and networks (`10.0.0.0/8`) of proxies whose X-Forwarded-For counts.
    #[serde(default)]
    trusted_proxies: Vec<String>,
    /// Longest body; a longer one is answered 413.
    #[serde(default = "defaults::body_max")]
    body_max: ByteSize,
    /// Longest record; a post with a longer one is answered 413.
    #[serde(default = "defaults::record_max")]
    record_max: ByteSize,
    /// Most bytes of bodies that are not answered yet, a record counting 8 at least; what comes beyond is
    /// answered 429.
    #[serde(default = "defaults::in_flight")]
    in_flight: ByteSize,
    /// Most posts that are not answered yet; further ones are answered 429.
    #[serde(default = "defaults::requests_max")]
    requests_max: NonZeroU32,
    /// Most idempotency keys that are known; by default 10,000,000 with a journal on disk, and 1,000,000
    /// with one in memory; they are where it is, some 250 bytes each. They are known as long as the journal
    /// keeps their records, and the newest 100,000 longer; beyond `keys_max` the oldest are forgotten early,
    /// which is logged and counted.
    #[schemars(range(min = 1, max = 100_000_000))]
    keys_max: Option<u32>,
    /// Longest wait for the head of a request, and then for its body.
    #[serde(default = "defaults::read_timeout")]
    read_timeout: Span,
}

mod defaults {
    use super::*;

    pub(super) fn body_max() -> ByteSize {
        ByteSize(4 << 20)
    }

    pub(super) fn record_max() -> ByteSize {
        ByteSize(1 << 20)
    }

    pub(super) fn in_flight() -> ByteSize {
        ByteSize(64 << 20)
    }

    pub(super) fn requests_max() -> NonZeroU32 {
        NonZeroU32::new(256).expect("256 is not zero")
    }

    pub(super) fn read_timeout() -> Span {
        Span(Duration::from_secs(10))
    }
}

/// `keys_max` by default: far more than a journal has posts, if they are not tiny.
const KEYS_ON_DISK_MAX: u32 = 10_000_000;
/// The same where they are in memory, as the journal is.
const KEYS_IN_MEMORY_MAX: u32 = 1_000_000;
/// Paths that the port has of its own.
const TAKEN: [&str; 2] = ["/healthz", "/readyz"];
/// What `body_max` may be: a batch counts its bytes with 32 bits.
const BODY_MAX: std::ops::RangeInclusive<ByteSize> = ByteSize(1)..=ByteSize(1 << 30);

/// A checked `http` source.
#[derive(Clone, Debug)]
struct Plan {
    port: PortPlan,
    path: String,
    bounds: Bounds,
    in_flight: u64,
    requests_max: u32,
    keys_max: Option<u32>,
    read_timeout: Duration,
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SourcePlan>, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let mut problems = Vec::new();
    let port = Written {
        listen: &config.listen,
        auth: config.auth,
        tls: config.tls.as_ref(),
        insecure: config.insecure,
        hosts: &config.hosts,
        origins: &config.origins,
        trusted_proxies: &config.trusted_proxies,
    }
    .check(facts, &mut problems);
    let path = config
        .path
        .unwrap_or_else(|| format!("/v1/ingest/{}", escape(&facts.pipeline)));
    problems.extend(wrong_path(&path, "/v1/ingest/trades", &TAKEN));
    within("/body_max", config.body_max, BODY_MAX, &mut problems);
    within("/record_max", config.record_max, BODY_MAX, &mut problems);
    if config.in_flight < config.body_max {
        let message = format!(
            "`in_flight` ({}) is less than `body_max` ({})",
            config.in_flight, config.body_max
        );
        problems.push(
            Problem::error("/in_flight", message).help("one body at least must have room in it"),
        );
    }
    if config.read_timeout.0.is_zero() {
        problems.push(
            Problem::error("/read_timeout", "`read_timeout` must be longer than 0")
                .help("every wait is bounded: give it a time, such as 10s"),
        );
    }
    match port {
        Some(port) if problems.is_empty() => Ok(Box::new(Plan {
            port,
            path,
            bounds: Bounds {
                body_bytes_max: config.body_max.0 as usize,
                record_bytes_max: config.record_max.0 as usize,
            },
            in_flight: config.in_flight.0,
            requests_max: config.requests_max.get(),
            keys_max: config.keys_max,
            read_timeout: config.read_timeout.0,
        })),
        _ => Err(problems),
    }
}

impl Plan {
    fn keys(&self, context: &SourceContext, position: u64) -> Result<Keys, SourceError> {
        let on_disk = context.resume_at.is_some();
        let keep: Box<dyn Keep> = match on_disk {
            true => Box::new(keys_file(context, position)?),
            false => Box::new(KeysTable::default()),
        };
        let keys_max = self.keys_max.unwrap_or(match on_disk {
            true => KEYS_ON_DISK_MAX,
            false => KEYS_IN_MEMORY_MAX,
        });
        let metrics = Arc::clone(&context.metrics);
        Ok(Keys::new(keep, keys_max.into(), metrics))
    }
}

fn keys_file(context: &SourceContext, position: u64) -> Result<KeysFile, SourceError> {
    let path = context.state_dir.join("posts.redb");
    KeysFile::open(path.clone(), position, context.fresh).map_err(|error| {
        let message = format!(
            "{}: the keys of posts cannot be read: {error}\n  give the file back what it lacks, or move it \
             away: then posts that come again are taken again",
            path.display()
        );
        SourceError::Environment { message }
    })
}

fn partition() -> Partition {
    Partition::new("http")
}

impl SourcePlan for Plan {
    fn describe(&self) -> String {
        let scheme = self.port.scheme("http");
        format!("posts to {scheme}://{}{}", self.port.listen, self.path)
    }

    /// Whoever has no answer posts again: until then the record is theirs.
    fn replayable(&self) -> bool {
        true
    }

    fn guarantee(&self) -> Option<String> {
        let words = "a post is answered when all of its records are safe in this sense; one without an \
             answer of 200 is to be posted again, and is taken once where it has an Idempotency-Key \
             (over a crash with a journal on disk alone)";
        Some(words.to_owned())
    }

    /// In `rejected` of the answer.
    fn tells_senders(&self) -> bool {
        true
    }

    fn asks_for_credentials(&self) -> bool {
        self.port.asks
    }

    fn listens(&self) -> Option<SocketAddr> {
        Some(self.port.listen)
    }

    fn probe(&self) -> BoxFuture<'_, Vec<ProbeStep>> {
        Box::pin(async { probe(&self.port) })
    }

    fn open(&self, context: SourceContext) -> BoxFuture<'_, Result<Source, SourceError>> {
        Box::pin(async move {
            let wrong = |message| SourceError::Environment { message };
            let tls = self.port.tls.clone().map(Tls::open).transpose();
            let tls = tls.map_err(wrong)?;
            let metrics = Arc::clone(&context.metrics);
            let gate = Gate::open(&context.credentials, self.port.asks, metrics).map_err(wrong)?;
            let door = Door::open(self.port.listen).map_err(wrong)?;
            let address = door.address();
            let position = context.resume_at(&partition()).unwrap_or(0);
            let keys = self.keys(&context, position)?;
            let (sender, received) = mpsc::unbounded_channel();
            let desk = Desk::new(sender, keys);
            let over = CancellationToken::new();
            let server = Arc::new(Server::new(
                self.clone(),
                desk.clone(),
                gate,
                tls,
                context.metrics,
            ));
            let mut greeting = vec![format!(
                "post    {}://{address}{}",
                self.port.scheme("http"),
                self.path
            )];
            greeting.extend(
                server
                    .guid_path()
                    .map(|path| format!("post    {}://{address}{path}", self.port.scheme("http"))),
            );
            tokio::spawn(serve::run(Arc::clone(&server), door, over.clone()));
            let mut start = Checkpoint::default();
            if position > 0 {
                start.start_at(partition(), position);
            }
            Ok(Source {
                reader: Box::new(Posts {
                    received,
                    desk: desk.clone(),
                    limits: context.limits,
                    pending: VecDeque::new(),
                    start: position,
                    position,
                    greeting,
                }),
                committer: Box::new(Answering {
                    desk,
                    server,
                    _over: over.drop_guard(),
                }),
                start,
            })
        })
    }
}

/// The half that reads: posts in the order in which they came, cut into batches.
struct Posts {
    /// Bounded by what may be in flight (I4).
    received: mpsc::UnboundedReceiver<Posted>,
    desk: Desk,
    limits: BatchLimits,
    /// Posts with records that wait for their batch.
    pending: VecDeque<Cut>,
    /// The position before the first of them.
    start: u64,
    /// The position after the last.
    position: u64,
    greeting: Vec<String>,
}

impl Posts {
    /// Takes posts in: `first`, and those that are here by now, up to a batch.
    fn take_in(&mut self, first: Posted) {
        let mut posts = vec![first];
        let mut records = posts[0].records.len();
        while records < self.limits.records_max
            && let Ok(post) = self.received.try_recv()
        {
            records += post.records.len();
            posts.push(post);
        }
        // Cancel-safe: nothing waits between here and the end.
        for records in self.desk.take_in(posts, self.position) {
            self.position += records.len() as u64;
            self.pending.push_back(records);
        }
    }

    fn batch(&mut self) -> Option<Batch> {
        let mut payloads = Column::default();
        while payloads.len() < self.limits.records_max
            && payloads.bytes.len() < self.limits.bytes_max
            && let Some(post) = self.pending.front_mut()
        {
            match post.pop() {
                Some(record) => payloads.push(record),
                None => drop(self.pending.pop_front()),
            }
        }
        let start = self.start;
        self.start += payloads.len() as u64;
        (!payloads.is_empty()).then(|| Batch {
            number: 0,
            partition: partition(),
            start,
            positions: (start + 1..=self.start).collect(),
            records: Records::of_payloads(payloads),
        })
    }
}

impl Reader for Posts {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, SourceError>> {
        Box::pin(async {
            loop {
                if let Some(batch) = self.batch() {
                    return Ok(Some(batch));
                }
                match self.received.recv().await {
                    Some(post) => self.take_in(post),
                    None => return Ok(None),
                }
            }
        })
    }

    fn close(&mut self) {
        self.desk.close();
    }

    fn greeting(&self) -> Vec<String> {
        self.greeting.clone()
    }
}

/// The half that commits, which is to answer.
struct Answering {
    desk: Desk,
    server: Arc<Server>,
    /// The port is open as long as somebody may have to be answered.
    _over: tokio_util::sync::DropGuard,
}

impl Committer for Answering {
    fn commit<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            if let Some(position) = checkpoint.position(&partition()) {
                self.desk.settle(position);
            }
            if self.desk.is_closed() {
                // The process may end behind this.
                self.server.answered().await;
            }
            Ok(())
        })
    }

    fn forgotten(&mut self, checkpoint: &Checkpoint) {
        if let Some(position) = checkpoint.position(&partition()) {
            self.desk.forget(position);
        }
    }

    fn failed(&mut self, _: &Partition, position: u64, reason: &str) {
        self.desk.failed(position, reason);
    }

    fn is_awaited(&self) -> bool {
        true
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.desk.abandon();
    }
}
