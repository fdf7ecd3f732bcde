//! A WebSocket server for trying pipelines out: it handles what comes, confirms it, and breaks on
//! request.
//!
//! Owns the rule that makes its Pong worth something: a record is handled (counted, written, flushed)
//! before the Pong of a later Ping, or its own reply, is sent; with `wirefall.v1` made durable before it
//! is acknowledged. Not a sink: `wirefall receive`, the tests and the benchmark run it as the peer.
//!
//! It reads frames by itself: as the benchmark's receiver it must cost less than any sender, so in
//! count mode it looks at headers and never touches a payload. Whoever connects is a stranger: what it may
//! cost is bounded (I4), and what it breaks is told to it by a Close, and once in the log.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_util::sync::CancellationToken;

use connection::Connection;
use desk::Desk;
use inbox::Inbox;
use v1::Book;

use super::kept::KeptError;
use super::protocol::V1;
use crate::port::door::Door;
use crate::port::news::News;
use crate::port::visitors::{Busy, Visitors};

mod connection;
mod desk;
mod inbox;
mod v1;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a sender to close after the limit was reached, and to take a Close.
const LAST_CLOSE: Duration = Duration::from_secs(2);
/// Most connections (I4); the one that was silent for longest gives way to the next.
const CONNECTIONS_MAX: usize = 1000;
/// Longest message, if nothing else is said.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Of what is locked.
const NO_PANIC: &str = "nobody panics with it";
/// How many handshakes are refused after a break of the kind [`BreakHow::Refuse503`].
const REFUSALS: u64 = 3;

/// What to do with what comes, and how to misbehave.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where records go.
    pub output: Output,
    /// What confirms, beside Pongs.
    pub ack: Ack,
    /// Stop after so many messages.
    pub limit: Option<u64>,
    /// Longest message; whoever sends a longer one is told 1009.
    pub message_bytes_max: usize,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            output: Output::default(),
            ack: Ack::default(),
            limit: None,
            message_bytes_max: MESSAGE_BYTES_MAX,
            faults: Faults::default(),
        }
    }
}

impl Options {
    /// Whether no payload is looked at, as far as this decides it.
    fn only_counts(&self) -> bool {
        matches!(self.output, Output::Count) && self.faults.break_on.is_none()
    }
}

/// What confirms, beside Pongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Nothing.
    #[default]
    Pong,
    /// A reply to each message.
    Reply,
    /// A place that is kept with the records: `wirefall.v1`.
    Place,
    /// The message itself, for `conformance`.
    #[cfg(test)]
    Echo,
}

/// Why a receiver cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file and its place do not fit.
    #[error(transparent)]
    Kept(#[from] KeptError),
}

/// Where records go, one a line.
#[derive(Clone, Debug, Default)]
pub enum Output {
    /// Nowhere: they are counted.
    #[default]
    Count,
    /// Standard output.
    Print,
    /// Appended to a file.
    File(PathBuf),
}

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Break the connection after every so many messages, over all connections.
    pub break_every: Option<u64>,
    /// Break when a message contains this; it is not handled.
    pub break_on: Option<Vec<u8>>,
    /// How to break.
    pub how: BreakHow,
    /// Break so many times at most.
    pub breaks_max: Option<u64>,
    /// Answer Pings with another payload.
    pub wrong_pongs: bool,
    /// Answer no Ping.
    pub no_pong: bool,
    /// Refuse every handshake with this status.
    pub status: Option<u16>,
    /// Wait so long before each message is handled.
    pub slow: Option<Duration>,
}

/// How a connection is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakHow {
    /// RST, as a killed process or a lost route.
    #[default]
    Reset,
    /// A Close with code 1001.
    Close,
    /// Nothing is read any more, and nothing said: the sender's kernel takes no more.
    Stall,
    /// What comes is dropped, and nothing said, as on a line that was cut somewhere: the sender's kernel
    /// takes everything.
    HalfOpen,
    /// RST, and the next handshakes are answered by 503.
    Refuse503,
}

/// What came, over all connections.
#[derive(Debug, Default)]
pub struct Totals {
    /// Messages handled.
    pub messages: AtomicU64,
    /// Their payload bytes.
    pub bytes: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections broken on request.
    pub breaks: AtomicU64,
    refusals_left: AtomicU64,
}

impl Totals {
    fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Messages, bytes, connections and breaks so far.
    pub fn read(&self) -> [u64; 4] {
        [
            Self::count(&self.messages),
            Self::count(&self.bytes),
            Self::count(&self.connections),
            Self::count(&self.breaks),
        ]
    }
}

/// A bound receiver.
pub struct Receiver {
    door: Door,
    options: Options,
    totals: Arc<Totals>,
}

impl Receiver {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The system's, where the address cannot be bound.
    pub async fn bind(address: &str, options: Options) -> io::Result<Self> {
        let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in lookup_host(address).await? {
            match Door::listen(address) {
                Err(error) => failed = error,
                Ok(door) => {
                    return Ok(Self {
                        door,
                        options,
                        totals: Arc::default(),
                    });
                }
            }
        }
        Err(failed)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// The counts, while it runs and after.
    pub fn totals(&self) -> Arc<Totals> {
        Arc::clone(&self.totals)
    }

    /// Serves until `stop`, or until the limit is reached. A sender that comes again goes on with the
    /// same counts.
    ///
    /// # Errors
    /// The system's, where records cannot be written; the file does not fit its place.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ReceiveError> {
        let path = match &self.options.output {
            Output::File(path) => Some(path),
            Output::Count | Output::Print => None,
        };
        let (book, file) = if self.options.ack == Ack::Place {
            (Some(Book::open(path.map(PathBuf::as_path))?), None)
        } else {
            let mut options = std::fs::OpenOptions::new();
            let open = |path| options.create(true).append(true).open(path);
            (None, path.map(open).transpose()?)
        };
        let shared = Arc::new(Shared {
            options: self.options,
            totals: self.totals,
            file,
            book,
            stop: stop.clone(),
            failed: Mutex::new(None),
            breaches: Default::default(),
        });
        let mut visitors = Visitors::new(CONNECTIONS_MAX);
        let admit = async {
            loop {
                let (tcp, peer) = self.door.next().await;
                let busy = Busy::default();
                let serve = Arc::clone(&shared).serve(tcp, peer, Arc::clone(&busy));
                visitors.admit_busy(busy, serve).await;
            }
        };
        tokio::select! {
            () = admit => (),
            () = stop.cancelled() => (),
        }
        let failed = shared.failed.lock().expect(NO_PANIC).take();
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

struct Shared {
    options: Options,
    totals: Arc<Totals>,
    file: Option<std::fs::File>,
    /// With [`Ack::Place`].
    book: Option<Book>,
    stop: CancellationToken,
    failed: Mutex<Option<io::Error>>,
    breaches: [Mutex<News>; 3],
}

/// What strangers do and is told once in a while.
#[derive(Clone, Copy, Debug)]
enum Breach {
    /// It is no WebSocket client, or a very slow one.
    Handshake,
    /// It breaks RFC 6455, or reads nothing.
    Rules,
    /// It breaks `wirefall.v1`.
    Protocol,
}

impl Shared {
    async fn serve(self: Arc<Self>, tcp: TcpStream, peer: SocketAddr, busy: Busy) {
        let Some(tcp) = self.accept(tcp, peer).await else {
            return;
        };
        self.totals.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            desk: Desk::new(self.book.as_ref().map(Book::begin)),
            inbox: Inbox::new(self.options.message_bytes_max),
            shared: self,
            tcp,
            peer,
            busy,
        };
        if let Err(error) = connection.run().await {
            tracing::debug!("connection ended: {error}");
        }
    }

    /// The handshake, or a refusal.
    async fn accept(&self, tcp: TcpStream, peer: SocketAddr) -> Option<TcpStream> {
        let left = &self.totals.refusals_left;
        let refuse = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        let status = self.options.faults.status.or(refuse.then_some(503));
        let keeps_place = self.options.ack == Ack::Place;
        // The library's callback fixes the type of its error.
        #[expect(clippy::result_large_err)]
        let answer = move |request: &Request, mut response: Response| {
            if let Some(status) = status {
                return Err(refusal(status, "refused on request"));
            }
            let offered = request.headers().get("sec-websocket-protocol");
            let offered = offered.and_then(|names| names.to_str().ok());
            let mut names = offered.unwrap_or_default().split(',').map(str::trim);
            // What is chosen is spoken.
            let chosen = names.find(|name| !name.is_empty() && (*name == V1) == keeps_place);
            if keeps_place && chosen.is_none() {
                return Err(refusal(
                    400,
                    "this receiver speaks wirefall.v1 and nothing else",
                ));
            }
            if let Some(chosen) = chosen.and_then(|name| name.parse().ok()) {
                let headers = response.headers_mut();
                headers.insert("sec-websocket-protocol", chosen);
            }
            Ok(response)
        };
        tcp.set_nodelay(true).ok()?;
        let upgrade = tokio_tungstenite::accept_hdr_async(tcp, answer);
        match timeout(HANDSHAKE_TIMEOUT, upgrade).await {
            Ok(Ok(upgraded)) => return Some(upgraded.into_inner()),
            // It was answered in HTTP.
            Ok(Err(Error::Http(_))) => {}
            Ok(Err(error)) => self.tell(Breach::Handshake, peer, &error),
            Err(_) => self.tell(Breach::Handshake, peer, &"no handshake in time"),
        }
        None
    }

    /// Tells what a stranger does, once in a while.
    fn tell(&self, breach: Breach, peer: SocketAddr, what: &dyn std::fmt::Display) {
        let mut news = self.breaches[breach as usize].lock().expect(NO_PANIC);
        if !news.is_news() {
            return;
        }
        let broken = match breach {
            Breach::Handshake => "no WebSocket",
            Breach::Rules => "a sender breaks the WebSocket protocol",
            Breach::Protocol => "the sender breaks wirefall.v1",
        };
        tracing::warn!(%peer, "{broken}: {what} (further ones are not told for a minute)");
    }

    /// Whether a break is due when `messages` more are handled.
    fn breaks_after(&self, messages: u64) -> bool {
        let faults = &self.options.faults;
        faults.break_every.is_some_and(|every| {
            let done = Totals::count(&self.totals.messages) + messages;
            let breaks = Totals::count(&self.totals.breaks);
            done.is_multiple_of(every.max(1)) && faults.breaks_max.is_none_or(|most| breaks < most)
        })
    }

    fn fail(&self, error: io::Error) {
        *self.failed.lock().expect(NO_PANIC) = Some(error);
        self.stop.cancel();
    }
}

fn refusal(status: u16, words: &str) -> ErrorResponse {
    let mut refusal = ErrorResponse::new(Some(words.to_owned()));
    *refusal.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE);
    refusal
}
