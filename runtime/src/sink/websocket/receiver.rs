//! A WebSocket server for trying pipelines out: it handles what comes, confirms it, and breaks on
//! request.
//!
//! Owns the rule that makes its Pong worth something: a record is handled (counted, written, flushed)
//! before the Pong of a later Ping, or its own reply, is sent; with `wirefall.v1` made durable before it
//! is acknowledged. Not a sink: `wirefall receive`, the tests and the benchmark run it as the peer.
//!
//! It reads frames by itself: as the benchmark's receiver it must cost less than any sender, so in
//! count mode it looks at headers and never touches a payload.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_util::sync::CancellationToken;

use desk::{Desk, Taken};
use inbox::Inbox;
use v1::{Book, Ended};

use super::kept::KeptError;
use super::protocol::{V1, close};

mod desk;
mod inbox;
mod v1;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a sender to close after the limit was reached.
const LAST_CLOSE: Duration = Duration::from_secs(2);
/// Why a connection ends when its sender comes again.
const TAKEN: &str = "the sender has another connection";
/// How many handshakes are refused after a break of the kind [`BreakHow::Refuse503`].
const REFUSALS: u64 = 3;

/// What to do with what comes, and how to misbehave.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where records go.
    pub output: Output,
    /// What confirms, beside Pongs.
    pub ack: Ack,
    /// Stop after so many messages.
    pub limit: Option<u64>,
    /// What goes wrong.
    pub faults: Faults,
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
    listener: TcpListener,
    options: Options,
    totals: Arc<Totals>,
}

impl Receiver {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The system's, where the address cannot be bound.
    pub async fn bind(address: &str, options: Options) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            options,
            totals: Arc::default(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The counts, while it runs and after.
    pub fn totals(&self) -> Arc<Totals> {
        Arc::clone(&self.totals)
    }

    /// Serves until `stop`, or until the limit is reached. A sender that comes again goes on with the
    /// same counts.
    ///
    /// # Errors
    /// The system's, where records cannot be written or connections not be accepted; the file does not
    /// fit its place.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ReceiveError> {
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
            failed: std::sync::Mutex::new(None),
        });
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            // An accept fails when a sender is gone already or descriptors run out: neither is the end.
            if let Ok((tcp, _)) = accepted {
                tokio::spawn(Arc::clone(&shared).serve(tcp));
            }
        }
        let failed = shared.failed.lock().expect("nobody panics with it").take();
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
    failed: std::sync::Mutex<Option<io::Error>>,
}

impl Shared {
    async fn serve(self: Arc<Self>, tcp: TcpStream) {
        let Some(tcp) = self.accept(tcp).await else {
            return;
        };
        self.totals.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            desk: Desk::new(self.book.as_ref().map(Book::begin)),
            shared: self,
            tcp,
            inbox: Inbox::default(),
        };
        if let Err(error) = connection.run().await {
            tracing::debug!("connection ended: {error}");
        }
    }

    /// The handshake, or a refusal.
    async fn accept(&self, tcp: TcpStream) -> Option<TcpStream> {
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
        let upgraded = tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrade)
            .await
            .ok()?;
        Some(upgraded.ok()?.into_inner())
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
        *self.failed.lock().expect("nobody panics with it") = Some(error);
        self.stop.cancel();
    }
}

fn refusal(status: u16, words: &str) -> ErrorResponse {
    let mut refusal = ErrorResponse::new(Some(words.to_owned()));
    *refusal.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE);
    refusal
}

/// One connection.
struct Connection {
    shared: Arc<Shared>,
    tcp: TcpStream,
    inbox: Inbox,
    desk: Desk,
}

/// How serving a connection goes on.
enum Next {
    ReadOn,
    /// Break the connection as the faults say.
    Break,
    /// The peer's Close was answered.
    Closed,
    /// The peer, or another connection of it, makes this one end: it is told why.
    Part(u16, String),
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        let taken = self.desk.taken();
        loop {
            self.tcp.write_all(&self.desk.take_answers()).await?;
            let read = tokio::select! {
                read = self.tcp.read(self.inbox.room()?) => read?,
                () = taken.cancelled() => return self.part(close::TAKEN, TAKEN).await,
                () = self.shared.stop.cancelled() => return self.part(1001, "").await,
            };
            if read == 0 {
                return Ok(());
            }
            self.inbox.filled(read);
            let next = self.take_in().await?;
            // Handled first, answered second: a Pong means that all before it is safe with us.
            match self.keep() {
                Ok(()) => {}
                Err(Ended::Taken) => return self.part(close::TAKEN, TAKEN).await,
                Err(Ended::Io(error)) => {
                    self.shared.fail(error);
                    return Ok(());
                }
            }
            self.tcp.write_all(&self.desk.take_answers()).await?;
            match next {
                Next::ReadOn => {}
                Next::Closed => return self.tcp.shutdown().await,
                Next::Break => return self.fault().await,
                Next::Part(code, words) => return self.part(code, &words).await,
            }
        }
    }

    /// Handles every whole frame that was read.
    async fn take_in(&mut self) -> io::Result<Next> {
        let shared = Arc::clone(&self.shared);
        let mut next = Next::ReadOn;
        let (mut messages, mut bytes) = (0, 0);
        while let Some(frame) = self.inbox.next()? {
            match self.desk.take(frame, &shared.options) {
                Taken::Nothing => {}
                Taken::Message(size) => {
                    messages += 1;
                    bytes += size;
                    if shared.breaks_after(messages) {
                        next = Next::Break;
                        break;
                    }
                    if let Some(slow) = shared.options.faults.slow {
                        tokio::time::sleep(slow).await;
                    }
                }
                Taken::Offence => {
                    next = Next::Break;
                    break;
                }
                Taken::Close => {
                    next = Next::Closed;
                    break;
                }
                Taken::Wrong(wrong) => {
                    tracing::warn!("the sender breaks wirefall.v1: {wrong}");
                    next = Next::Part(close::WRONG, wrong.to_string());
                    break;
                }
            }
        }
        let before = shared
            .totals
            .messages
            .fetch_add(messages, Ordering::Relaxed);
        shared.totals.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(limit) = shared.options.limit
            && (before..before + messages).contains(&(limit.saturating_sub(1)))
        {
            // The sender may still wait for the Pong that confirms the last: it is given time to close.
            let stop = shared.stop.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LAST_CLOSE).await;
                stop.cancel();
            });
        }
        Ok(next)
    }

    /// Writes out what was handled, and makes it durable where it is acknowledged.
    fn keep(&mut self) -> Result<(), Ended> {
        let lines = self.desk.take_lines();
        if let Some(book) = &self.shared.book {
            self.desk.keep(book, &lines)?;
        }
        if lines.is_empty() {
            return Ok(());
        }
        let written = match (&self.shared.options.output, &self.shared.file) {
            (Output::File(_), Some(file)) => (&*file).write_all(&lines),
            (Output::Print, _) => {
                let mut out = io::stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            }
            _ => Ok(()),
        };
        written.map_err(Ended::Io)
    }

    /// Breaks the connection on purpose.
    async fn fault(mut self) -> io::Result<()> {
        let totals = &self.shared.totals;
        totals.breaks.fetch_add(1, Ordering::Relaxed);
        match self.shared.options.faults.how {
            BreakHow::Reset => {}
            BreakHow::HalfOpen => return self.drop_what_comes().await,
            BreakHow::Refuse503 => totals.refusals_left.store(REFUSALS, Ordering::Relaxed),
            BreakHow::Close => {
                return self.part(1001, "").await;
            }
            BreakHow::Stall => {
                // Until the sender gives up: a write would tell, but nothing is said here.
                let socket = SockRef::from(&self.tcp);
                socket.set_tcp_nodelay(true)?;
                self.shared.stop.cancelled().await;
                return Ok(());
            }
        }
        SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO))
    }

    /// Reads until the sender gives up, and handles nothing.
    async fn drop_what_comes(&mut self) -> io::Result<()> {
        let mut dropped = vec![0; 64 * 1024];
        loop {
            let read = tokio::select! {
                read = self.tcp.read(&mut dropped) => read?,
                () = self.shared.stop.cancelled() => 0,
            };
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// The end of the connection: a Close, and the socket with it.
    async fn part(mut self, code: u16, reason: &str) -> io::Result<()> {
        self.tcp.write_all(&desk::close(code, reason)).await?;
        self.tcp.shutdown().await
    }
}
