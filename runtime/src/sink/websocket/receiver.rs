//! A WebSocket server for trying pipelines out: it handles what comes, confirms it, and breaks on
//! request.
//!
//! Owns the rule that makes its Pong worth something: a record is handled (counted, written, flushed)
//! before the Pong of a later Ping, or its own reply, is sent. Not a sink: `wirefall receive`, the
//! tests and the benchmark run it as the peer.
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

mod desk;
mod inbox;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a sender to close after the limit was reached.
const LAST_CLOSE: Duration = Duration::from_secs(2);
/// How many handshakes are refused after a break of the kind [`BreakHow::Refuse503`].
const REFUSALS: u64 = 3;

/// What to do with what comes, and how to misbehave.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where records go.
    pub output: Output,
    /// What confirms, beside Pongs.
    pub reply: bool,
    /// Stop after so many messages.
    pub limit: Option<u64>,
    /// What goes wrong.
    pub faults: Faults,
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
    /// The system's, where records cannot be written or connections not be accepted.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let file = match &self.options.output {
            Output::File(path) => Some(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)?,
            ),
            Output::Count | Output::Print => None,
        };
        let shared = Arc::new(Shared {
            options: self.options,
            totals: self.totals,
            file,
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
        failed.map_or(Ok(()), Err)
    }
}

struct Shared {
    options: Options,
    totals: Arc<Totals>,
    file: Option<std::fs::File>,
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
            shared: self,
            tcp,
            inbox: Inbox::default(),
            desk: Desk::default(),
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
        // The library's callback fixes the type of its error.
        #[expect(clippy::result_large_err)]
        let answer = move |request: &Request, mut response: Response| {
            if let Some(status) = status {
                let mut refusal = ErrorResponse::new(Some("refused on request".to_owned()));
                *refusal.status_mut() = http::StatusCode::from_u16(status)
                    .unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE);
                return Err(refusal);
            }
            let offered = request.headers().get("sec-websocket-protocol");
            let first = offered
                .and_then(|names| names.to_str().ok())
                .and_then(|names| names.split(',').next()?.trim().parse().ok());
            if let Some(first) = first {
                response
                    .headers_mut()
                    .insert("sec-websocket-protocol", first);
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
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let read = tokio::select! {
                read = self.tcp.read(self.inbox.room()?) => read?,
                () = self.shared.stop.cancelled() => return self.end().await,
            };
            if read == 0 {
                return Ok(());
            }
            self.inbox.filled(read);
            let next = self.take_in().await?;
            // Handled first, answered second: a Pong means that all before it is safe with us.
            if let Err(error) = self.keep() {
                self.shared.fail(error);
                return Ok(());
            }
            self.tcp.write_all(&self.desk.take_answers()).await?;
            match next {
                Next::ReadOn => {}
                Next::Closed => return self.tcp.shutdown().await,
                Next::Break => return self.fault().await,
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

    /// Writes out what was handled.
    fn keep(&mut self) -> io::Result<()> {
        let lines = self.desk.take_lines();
        if lines.is_empty() {
            return Ok(());
        }
        match (&self.shared.options.output, &self.shared.file) {
            (Output::File(_), Some(file)) => (&*file).write_all(&lines),
            (Output::Print, _) => {
                let mut out = io::stdout().lock();
                out.write_all(&lines)?;
                out.flush()
            }
            _ => Ok(()),
        }
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
                self.tcp.write_all(&desk::close(1001)).await?;
                return self.tcp.shutdown().await;
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

    /// The end of all: a Close, and the socket with it.
    async fn end(mut self) -> io::Result<()> {
        self.tcp.write_all(&desk::close(1001)).await?;
        self.tcp.shutdown().await
    }
}
