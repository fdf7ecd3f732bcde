//! A client of a published stream: connects, reads records, comes back after a break.
//!
//! Owns the reading end of one subscription and its waits. Never acknowledges and keeps no position: a
//! plain stream starts at the newest record, so what was published during a break is told as missed.
//! Called by `wirefall subscribe`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::Uri;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the server is pinged, and then after which it counts as gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Bounds of the wait before another attempt; it doubles, and is drawn from 0 up to it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the answer to our Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of a refusal's body that are shown.
const REFUSAL_BYTES_MAX: usize = 500;

type Line = WebSocketStream<MaybeTlsStream<TcpStream>>;

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
    /// The address is wrong.
    #[error("{0}")]
    Address(String),
    /// Nobody answers there, or the answer is no.
    #[error("{0}")]
    Refused(String),
}

/// See the module.
pub struct Subscription {
    url: String,
    line: Option<Line>,
    wait: Duration,
    /// When the next attempt is due.
    dial_at: Instant,
    pinged: bool,
    ended: bool,
}

impl Subscription {
    /// A subscription to `url` that is not connected yet.
    ///
    /// # Errors
    /// The address is wrong.
    pub fn new(url: &str) -> Result<Self, SubscribeError> {
        check(url).map_err(SubscribeError::Address)?;
        Ok(Self {
            url: url.to_owned(),
            line: None,
            wait: BACKOFF_MIN,
            dial_at: Instant::now(),
            pinged: false,
            ended: false,
        })
    }

    /// Connects for the first time.
    ///
    /// # Errors
    /// What happened, and what to do.
    pub async fn connect(&mut self) -> Result<(), SubscribeError> {
        let line = dial(&self.url).await.map_err(SubscribeError::Refused)?;
        self.line = Some(line);
        Ok(())
    }

    /// What has arrived already, without waiting.
    pub fn ready(&mut self) -> Option<Event> {
        let message = self.line.as_mut()?.next().now_or_never()?;
        self.take(message)
    }

    /// The next event. Safe to drop while it waits.
    pub async fn next(&mut self) -> Event {
        loop {
            if self.ended {
                return Event::End;
            }
            let Some(line) = &mut self.line else {
                sleep(self.dial_at.saturating_duration_since(Instant::now())).await;
                match dial(&self.url).await {
                    Ok(line) => {
                        self.line = Some(line);
                        return Event::Back;
                    }
                    Err(reason) => return self.broken(reason),
                }
            };
            let event = match timeout(PING_INTERVAL, line.next()).await {
                Ok(message) => self.take(message),
                Err(_) if self.pinged => Some(self.broken("the server answers no more".into())),
                Err(_) => {
                    self.pinged = true;
                    // A broken line tells itself at the next read.
                    let _ = timeout(CLOSE_TIMEOUT, line.send(Message::Ping(Bytes::new()))).await;
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
        if let Some(mut line) = self.line.take() {
            let polite = async {
                let _ = line.close(None).await;
                while let Some(Ok(_)) = line.next().await {}
            };
            let _ = timeout(CLOSE_TIMEOUT, polite).await;
        }
    }

    fn take(&mut self, message: Option<Result<Message, Error>>) -> Option<Event> {
        self.pinged = false;
        let frame = |payload, text| Some(Event::Frame { payload, text });
        match message {
            Some(Ok(Message::Text(text))) => {
                self.wait = BACKOFF_MIN;
                frame(text.into(), true)
            }
            Some(Ok(Message::Binary(bytes))) => {
                self.wait = BACKOFF_MIN;
                frame(bytes, false)
            }
            Some(Ok(Message::Close(Some(close)))) if close.code == CloseCode::Normal => {
                self.ended = true;
                Some(Event::End)
            }
            Some(Ok(Message::Close(Some(close)))) => {
                let reason = format!("closed by the server: {} ({})", close.reason, close.code);
                Some(self.broken(reason))
            }
            Some(Ok(Message::Close(None))) => Some(self.broken("closed by the server".into())),
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(self.broken(error.to_string())),
            None => Some(self.broken("the connection ended".into())),
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

/// What is wrong with an address, without dialling.
fn check(url: &str) -> Result<(), String> {
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("`{url}` is not an address: {error}"))?;
    let advice = "write it like ws://127.0.0.1:9400/v1/streams/NAME";
    match uri.scheme_str() {
        Some("ws") if uri.authority().is_some() => Ok(()),
        Some("http") => Err(format!(
            "`{url}` is an address of pages; the stream's begins with ws://"
        )),
        Some("wss" | "https") => Err(format!(
            "`{url}` asks for TLS, which `subscribe` does not speak yet; {advice}"
        )),
        _ => Err(format!("`{url}` is no WebSocket address; {advice}")),
    }
}

async fn dial(url: &str) -> Result<Line, String> {
    match timeout(CONNECT_TIMEOUT, tokio_tungstenite::connect_async(url)).await {
        Ok(Ok((line, _))) => Ok(line),
        Ok(Err(Error::Io(error))) => Err(format!(
            "cannot reach {url}: {error}; does the pipeline run?"
        )),
        Ok(Err(Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_BYTES_MAX)]);
            Err(format!(
                "{url} answers {}: {}",
                response.status(),
                body.trim()
            ))
        }
        Ok(Err(error)) => Err(format!("{url} does not speak WebSocket: {error}")),
        Err(_) => Err(format!("{url} does not answer within {CONNECT_TIMEOUT:?}")),
    }
}
