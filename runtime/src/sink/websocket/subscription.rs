//! A client of a published stream: connects, reads records, comes back after a break.
//!
//! Owns the reading end of one subscription and its waits. Never acknowledges and keeps no position: a
//! plain stream starts at the newest record, so what was published during a break is told as missed.
//! Called by `wirefall subscribe`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::address::Address;
use super::connect;
use super::endpoint::Endpoint;
use super::layers::Layers;
use super::line::{Line, Moved};
use super::outbound::Control;
use super::{tls, words};
use crate::journal::Position;

/// Longest message that is taken: whatever a stream may be set to.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// Silence after which the server is pinged, and then after which it counts as gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Bounds of the wait before another attempt; it doubles, and is drawn from 0 up to it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the answer to our Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a subscription brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame.
    Frame {
        /// Its payload.
        payload: Bytes,
        /// Whether it is a text frame.
        text: bool,
    },
    /// The connection broke; the next call waits so long and dials again.
    Broken {
        /// What happened.
        reason: String,
        /// The wait.
        wait: Duration,
    },
    /// Connected again: what was published since the break was not seen.
    Back,
    /// The server says that the stream is complete.
    End,
}

/// Why a subscription cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The address is wrong, or what is to be trusted cannot be read.
    #[error("{0}")]
    Wrong(String),
    /// Nobody answers there, or the answer is no.
    #[error("{0}")]
    Refused(String),
}

/// See the module.
pub struct Subscription {
    endpoint: Endpoint,
    tls: Option<Arc<rustls::ClientConfig>>,
    line: Option<Line>,
    wait: Duration,
    /// When the next attempt is due.
    dial_at: Instant,
    /// When the server was last heard.
    heard_at: Instant,
    pinged: bool,
    /// Whether writing has not failed: where it has, what the server said before is still to be read.
    writes: bool,
    ended: bool,
}

impl Subscription {
    /// A subscription to `url` that is not connected yet; `ca` is a PEM file of the authorities to trust
    /// instead of the system's.
    ///
    /// # Errors
    /// The address, or the file, is wrong.
    pub fn new(url: &str, ca: Option<PathBuf>) -> Result<Self, SubscribeError> {
        let address = Address::parse(url).map_err(|wrong| {
            let advice = "write it like ws://127.0.0.1:9400/v1/streams/NAME";
            SubscribeError::Wrong(format!("{wrong}; {advice}"))
        })?;
        let mut endpoint = Endpoint::at(address);
        endpoint.message_bytes_max = MESSAGE_BYTES_MAX;
        endpoint.tls.ca = ca;
        let tls = tls::of(&endpoint).map_err(SubscribeError::Wrong)?;
        Ok(Self {
            endpoint,
            tls,
            line: None,
            wait: BACKOFF_MIN,
            dial_at: Instant::now(),
            heard_at: Instant::now(),
            pinged: false,
            writes: true,
            ended: false,
        })
    }

    /// Connects for the first time.
    ///
    /// # Errors
    /// What happened, and what to do.
    pub async fn connect(&mut self) -> Result<(), SubscribeError> {
        self.dial().await.map_err(SubscribeError::Refused)
    }

    /// What has arrived already, without waiting.
    pub fn ready(&mut self) -> Option<Event> {
        if let Some(event) = self.take() {
            return Some(event);
        }
        let line = self.line.as_mut()?;
        line.take_answers();
        let moved = moved(line, self.writes).now_or_never()?;
        self.moved(moved).or_else(|| self.take())
    }

    /// The next event. Safe to drop while it waits.
    pub async fn next(&mut self) -> Event {
        loop {
            if self.ended {
                return Event::End;
            }
            if let Some(event) = self.take() {
                return event;
            }
            let Some(line) = &mut self.line else {
                sleep(self.dial_at.saturating_duration_since(Instant::now())).await;
                return match self.dial().await {
                    Ok(()) => Event::Back,
                    Err(reason) => self.broken(reason),
                };
            };
            line.take_answers();
            let silent_at = self.heard_at + PING_INTERVAL;
            let event = match timeout_at(silent_at, moved(line, self.writes)).await {
                Ok(moved) => self.moved(moved),
                Err(_) if self.pinged => Some(self.broken("the server answers no more".into())),
                Err(_) => {
                    self.pinged = true;
                    self.heard_at = Instant::now();
                    line.push_control(Control::Ping, b"");
                    None
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// Leaves politely, within a bound.
    pub async fn close(mut self) {
        let Some(mut line) = self.line.take() else {
            return;
        };
        line.push_control(Control::Close, &1000_u16.to_be_bytes());
        let answered = async {
            loop {
                while let Some(said) = line.next() {
                    if matches!(said, Ok(Message::Close(_)) | Err(_)) {
                        return;
                    }
                }
                let moved = line.moved(true).await;
                if let Some(Err(_)) = moved.read.or(moved.wrote) {
                    return;
                }
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, answered).await;
    }

    /// One attempt to connect.
    async fn dial(&mut self) -> Result<(), String> {
        let mut layers = Layers::default();
        let connected = connect::connect(&self.endpoint, self.tls.as_ref(), &mut layers).await;
        let connected = connected.map_err(|failure| {
            let advice = match layers.last() {
                Some("tcp") => "; does the pipeline run?",
                _ => "",
            };
            let address = &self.endpoint.address;
            format!("cannot connect to {address}: {}{advice}", failure.message)
        })?;
        let line = Line::new(connected, Position::default()).map_err(|error| error.to_string())?;
        self.line = Some(line);
        self.writes = true;
        self.heard_at = Instant::now();
        Ok(())
    }

    /// Bytes moved; tells if that was the end.
    fn moved(&mut self, moved: Moved) -> Option<Event> {
        self.writes &= !matches!(moved.wrote, Some(Err(_)));
        match moved.read? {
            Ok(()) => {
                self.heard_at = Instant::now();
                self.pinged = false;
                None
            }
            // What was read before the end comes first.
            Err(error) => {
                let event = self.take();
                event.or_else(|| Some(self.broken(words::of_read(&error))))
            }
        }
    }

    /// The next event in what was read.
    fn take(&mut self) -> Option<Event> {
        loop {
            let (payload, text) = match self.line.as_mut()?.next()? {
                Ok(Message::Text(text)) => (text.into(), true),
                Ok(Message::Binary(bytes)) => (bytes, false),
                Ok(Message::Close(Some(close))) if close.code == CloseCode::Normal => {
                    self.line.take()?.answer_close();
                    self.ended = true;
                    return Some(Event::End);
                }
                Ok(Message::Close(close)) => {
                    self.line.as_mut()?.answer_close();
                    return Some(self.broken(words::of_close(close.as_ref())));
                }
                Ok(_) => continue,
                Err(error) => return Some(self.broken(words::of_error(&error))),
            };
            self.wait = BACKOFF_MIN;
            return Some(Event::Frame { payload, text });
        }
    }

    fn broken(&mut self, reason: String) -> Event {
        self.line = None;
        self.pinged = false;
        let wait = self.wait.mul_f64(fastrand::f64());
        self.wait = (self.wait * 2).min(BACKOFF_MAX);
        self.dial_at = Instant::now() + wait;
        Event::Broken { reason, wait }
    }
}

/// Waits until bytes move; only inwards once writing has failed.
async fn moved(line: &mut Line, writes: bool) -> Moved {
    match writes {
        true => line.moved(true).await,
        false => Moved {
            wrote: None,
            read: Some(line.heard().await),
        },
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_stream_is_answered_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
            socket.send(Message::text("last")).await.unwrap();
            let close = CloseFrame {
                code: CloseCode::Normal,
                reason: "end of stream".into(),
            };
            socket.send(Message::Close(Some(close))).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap().is_close());
            let mut more = Vec::new();
            let _ = socket.get_mut().read_to_end(&mut more).await;
            more
        });
        let mut subscription = Subscription::new(&url, None).unwrap();
        subscription.connect().await.unwrap();
        let last = Event::Frame {
            payload: "last".into(),
            text: true,
        };
        assert_eq!(subscription.next().await, last);
        assert_eq!(subscription.next().await, Event::End);
        assert_eq!(subscription.ready(), None);
        assert_eq!(subscription.next().await, Event::End);
        subscription.close().await;
        assert!(server.await.unwrap().is_empty());
    }
}
