//! One connection: what comes is handled, kept, and then answered.
//!
//! Owns the socket and the order of these, and breaks it on request. What a frame is the inbox knows, what
//! it means the desk. Called by `receiver`.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::desk::{self, Desk, Taken};
use super::inbox::{Broken, Inbox};
use super::v1::Ended;
use super::{Breach, BreakHow, LAST_CLOSE, Output, REFUSALS, Shared};
use crate::port::farewell::{drop_what_comes, farewell};
use crate::port::visitors::Busy;
use crate::sink::websocket::protocol::close;

/// Longest wait for a sender to read what it is answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Who sends no message for so long may have to give way.
const SILENCE: Duration = Duration::from_secs(60);
/// Why a connection ends when its sender comes again.
const TAKEN: &str = "the sender has another connection";

/// See the module.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) tcp: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) busy: Busy,
    pub(super) inbox: Inbox,
    pub(super) desk: Desk,
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
    /// Serves it to its end.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let taken = self.desk.taken();
        loop {
            self.answer().await?;
            let is_busy = self.busy.load(Ordering::Relaxed);
            let read = tokio::select! {
                read = self.tcp.read(self.inbox.room()) => read?,
                () = tokio::time::sleep(SILENCE), if is_busy => {
                    self.busy.store(false, Ordering::Release);
                    continue;
                }
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
            self.answer().await?;
            match next {
                Next::ReadOn => {}
                Next::Closed => return farewell(&mut self.tcp).await,
                Next::Break => return self.fault().await,
                Next::Part(code, words) => return self.part(code, &words).await,
            }
        }
    }

    /// Sends what is to be answered. Nothing more is read before that: who reads nothing is read no more.
    async fn answer(&mut self) -> io::Result<()> {
        let answers = self.desk.take_answers();
        if answers.is_empty() {
            return Ok(());
        }
        let Ok(wrote) = timeout(ANSWER_TIMEOUT, self.tcp.write_all(&answers)).await else {
            let what = "it does not read what it is answered";
            self.shared.tell(Breach::Rules, self.peer, &what);
            return Err(io::ErrorKind::TimedOut.into());
        };
        wrote
    }

    /// Handles every whole frame that was read.
    async fn take_in(&mut self) -> io::Result<Next> {
        let shared = Arc::clone(&self.shared);
        let mut next = Next::ReadOn;
        let (mut messages, mut bytes) = (0, 0);
        loop {
            let taken = match self.inbox.next() {
                Ok(Some(frame)) => self.desk.take(frame, &shared.options),
                Ok(None) => break,
                Err(broken) => Taken::Broken(broken),
            };
            match taken {
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
                Taken::Broken(Broken { code, words }) => {
                    shared.tell(Breach::Rules, self.peer, &words);
                    next = Next::Part(code, words.to_owned());
                    break;
                }
                Taken::Wrong(wrong) => {
                    shared.tell(Breach::Protocol, self.peer, &wrong);
                    next = Next::Part(close::WRONG, wrong.to_string());
                    break;
                }
            }
        }
        if messages > 0 {
            self.busy.store(true, Ordering::Release);
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
        // Whoever is served no more gives way before those who are.
        self.busy.store(false, Ordering::Release);
        match self.shared.options.faults.how {
            BreakHow::Reset => {}
            BreakHow::HalfOpen => return self.take_and_drop().await,
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

    /// Takes everything until the sender gives up, and handles nothing.
    async fn take_and_drop(&mut self) -> io::Result<()> {
        tokio::select! {
            dropped = drop_what_comes(&mut self.tcp) => dropped,
            () = self.shared.stop.cancelled() => Ok(()),
        }
    }

    /// The end of the connection: a Close, and the socket with it.
    async fn part(mut self, code: u16, reason: &str) -> io::Result<()> {
        let close = desk::close(code, reason);
        timeout(LAST_CLOSE, self.tcp.write_all(&close)).await??;
        farewell(&mut self.tcp).await
    }
}
