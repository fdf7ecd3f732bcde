//! A client of a published stream: connects, reads records, comes back after a break.
//!
//! Owns the reading end of one subscription and its waits. With `wirefall.v1` it goes on at its place
//! and tells what is missing; a server that does not speak it is read as it is, from the newest on.
//! Keeps nothing: what is safe its caller says. Called by `wirefall subscribe` and by the `websocket` source.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{AUTHORIZATION, HeaderValue};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::address::Address;
use super::connect;
use super::credentials;
use super::endpoint::Endpoint;
use super::layers::Layers;
use super::line::{Line, Moved};
use super::outbound::Control;
use super::protocol::{
    Heard, Hello, Kind, PLAIN, Place, Reason, Receiver, Request, V1, Wanted, Wrong, close,
};
use super::{tls, words};
use crate::journal::Position;
use crate::units::Secret;

/// Longest message that is taken: whatever a stream may be set to.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// Silence after which a plain server is pinged, and then after which it counts as gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Longest wait for `hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds of the wait before another attempt; it doubles, and is drawn from 0 up to it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// For so long after a server has said that it restarts, the next one is expected any moment:
const RESTART_LASTS: Duration = Duration::from_secs(30);
/// the bound of the wait is no longer than this.
const RESTART_BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Longest wait for the answer to our Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a subscription brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame of records.
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
    /// Connected to a server that does not speak `wirefall.v1`: nobody knows what was published since
    /// the last connection, and it was not seen.
    Plain,
    /// Connected, and this is where it goes on. Where it could not resume, records are missing.
    Hello(Hello),
    /// The server went on without us: so many records are missing, where that is known.
    Gap(Option<u64>),
    /// Everything before has a position: a good moment to make it safe.
    Marked,
    /// The server is about to close: the last moment to acknowledge.
    Parting,
    /// The server says that the stream is complete.
    End,
    /// The server closed for good; its words.
    Refused(String),
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

/// How a server is read.
#[derive(Clone, Debug)]
pub struct Manner {
    /// What to ask a server for that speaks `wirefall.v1`.
    pub wanted: Wanted,
    /// Where to go on instead.
    pub place: Option<Place>,
    /// Only `wirefall.v1` will do.
    pub insists: bool,
    /// Text messages that a server that does not speak it is told first.
    pub opening: Vec<Secret>,
    /// Whether a Close 1000 of such a server is the end, or a break as any other.
    pub plain_ends: bool,
    /// Bounds of the wait before another attempt; it doubles, and is drawn from 0 up to it.
    pub backoff: (Duration, Duration),
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            place: None,
            insists: false,
            opening: Vec::new(),
            plain_ends: true,
            backoff: (BACKOFF_MIN, BACKOFF_MAX),
        }
    }
}

/// An attempt to connect that failed.
struct Failure {
    words: String,
    /// Another attempt does not help.
    permanent: bool,
    /// What the server asked to wait.
    wait: Duration,
    /// The credentials were refused.
    unauthorized: bool,
}

/// Reads the endpoint again, with today's credentials.
pub type Today = Box<dyn Fn() -> Result<Endpoint, String> + Send + Sync>;

/// See the module.
pub struct Subscription {
    endpoint: Endpoint,
    tls: Option<Arc<rustls::ClientConfig>>,
    today: Option<Today>,
    /// The credentials were refused: the next attempt takes today's.
    unauthorized: bool,
    receiver: Receiver,
    manner: Manner,
    /// It was connected once: a refusal may be a bad moment of the server.
    was_connected: bool,
    /// A server let us in, and began.
    was_welcome: bool,
    line: Option<Line>,
    /// Whether the present connection speaks `wirefall.v1`.
    speaks_v1: bool,
    wait: Duration,
    /// What the server asked to wait, when it said good-bye.
    asked_wait: Duration,
    /// Until when a server that restarts is expected back.
    restart_until: Option<Instant>,
    /// When the next attempt is due.
    dial_at: Instant,
    /// When the server was last heard.
    heard_at: Instant,
    pinged: bool,
    /// Whether writing has not failed: where it has, what the server said before is still to be read.
    writes: bool,
    /// What every further call brings.
    ended: Option<Event>,
}

impl Subscription {
    /// A subscription to `url` that is not connected yet; `ca` is a PEM file of the authorities to trust
    /// instead of the system's. It goes on at `place`, or begins as `wanted` says.
    ///
    /// # Errors
    /// The address, or the file, is wrong.
    pub fn new(
        url: &str,
        ca: Option<PathBuf>,
        wanted: Wanted,
        place: Option<Place>,
    ) -> Result<Self, SubscribeError> {
        let address = Address::parse(url).map_err(|wrong| {
            let advice = "write it like ws://127.0.0.1:9400/v1/streams/NAME";
            SubscribeError::Wrong(format!("{wrong}; {advice}"))
        })?;
        let mut endpoint = Endpoint::at(address);
        endpoint.message_bytes_max = MESSAGE_BYTES_MAX;
        endpoint.tls.ca = ca;
        let insists = wanted != Wanted::default() || place.is_some();
        let manner = Manner {
            wanted,
            place,
            insists,
            ..Manner::default()
        };
        Self::of(endpoint, manner)
    }

    /// A subscription that is not connected yet. An endpoint that offers no subprotocol of its own offers
    /// `wirefall.v1`.
    ///
    /// # Errors
    /// What is to be trusted cannot be read.
    pub fn of(mut endpoint: Endpoint, manner: Manner) -> Result<Self, SubscribeError> {
        if endpoint.subprotocols.is_empty() {
            endpoint.subprotocols = vec![V1.to_owned(), PLAIN.to_owned()];
            endpoint.subprotocol_optional = true;
        }
        let tls = tls::of(&endpoint).map_err(SubscribeError::Wrong)?;
        Ok(Self {
            endpoint,
            tls,
            today: None,
            unauthorized: false,
            receiver: Receiver::new(manner.wanted.clone(), manner.place.clone()),
            line: None,
            speaks_v1: false,
            wait: manner.backoff.0,
            manner,
            was_connected: false,
            was_welcome: false,
            asked_wait: Duration::ZERO,
            restart_until: None,
            dial_at: Instant::now(),
            heard_at: Instant::now(),
            pinged: false,
            writes: true,
            ended: None,
        })
    }

    /// Shows a secret of the stream, in a header.
    ///
    /// # Errors
    /// It has characters that headers do not allow.
    pub fn authorize(&mut self, secret: &Secret) -> Result<(), SubscribeError> {
        let value = format!("Bearer {}", secret.reveal());
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            SubscribeError::Wrong("the secret has characters that no secret has".to_owned())
        })?;
        value.set_sensitive(true);
        self.endpoint.headers.push((AUTHORIZATION, value));
        Ok(())
    }

    /// Credentials that are refused after the first success are read again, by `today`, and it goes on
    /// trying; else that is the end.
    pub fn renew_by(&mut self, today: Today) {
        self.today = Some(today);
    }

    /// Connects for the first time.
    ///
    /// # Errors
    /// What happened, and what to do.
    pub async fn connect(&mut self) -> Result<(), SubscribeError> {
        let dialled = self.dial().await;
        dialled.map_err(|failure| SubscribeError::Refused(failure.words))
    }

    /// Whether the present connection, or the last one, speaks `wirefall.v1`.
    pub fn speaks_v1(&self) -> bool {
        self.speaks_v1
    }

    /// Behind which frame it is: where another subscription goes on. `None` where the server does not
    /// speak `wirefall.v1`.
    pub fn place(&self) -> Option<&Place> {
        self.receiver.place()
    }

    /// Tells the server that everything up to `place`, which it gave on this connection, is safe here.
    pub fn ack(&mut self, place: Place) {
        if let Some(line) = self.line.as_mut().filter(|_| self.speaks_v1) {
            line.push_text(&Request::Ack(place).encode());
            // Its caller may not ask for more for a while.
            line.write_now();
        }
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
            if let Some(event) = &self.ended {
                return event.clone();
            }
            if let Some(event) = self.take() {
                return event;
            }
            let silent_at = self.silent_at();
            let Some(line) = &mut self.line else {
                sleep(self.dial_at.saturating_duration_since(Instant::now())).await;
                match self.dial().await {
                    Ok(()) if self.speaks_v1 => continue,
                    Ok(()) => return Event::Plain,
                    Err(failure) => return self.undialled(failure),
                }
            };
            line.take_answers();
            let event = match timeout_at(silent_at, moved(line, self.writes)).await {
                Ok(moved) => self.moved(moved),
                Err(_) => self.silent(),
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// Leaves politely, within a bound.
    pub async fn close(mut self) {
        if let Some(line) = self.line.take() {
            line.part(close::END, "", CLOSE_TIMEOUT).await;
        }
    }

    /// One attempt to connect.
    async fn dial(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.unauthorized) {
            match &self.today {
                Some(today) => credentials::renew(&mut self.endpoint, &mut self.tls, today()),
                None => credentials::reread(&self.endpoint, &mut self.tls),
            }
        }
        let mut layers = Layers::default();
        let connected = connect::connect(&self.endpoint, self.tls.as_ref(), &mut layers).await;
        let address = &self.endpoint.address;
        let connected = connected.map_err(|failure| {
            let advice = match layers.last() {
                Some("tcp") => "; does the pipeline run?",
                _ => "",
            };
            Failure {
                words: format!("cannot connect to {address}: {}{advice}", failure.message),
                permanent: failure.permanent,
                wait: failure.retry_after.unwrap_or_default(),
                unauthorized: failure.unauthorized,
            }
        })?;
        self.speaks_v1 = connected.subprotocol.as_deref() == Some(V1);
        if !self.speaks_v1 && (self.manner.insists || self.receiver.place().is_some()) {
            let words = format!(
                "the server at {address} does not speak wirefall.v1: it knows no positions, names or keys"
            );
            return Err(Failure {
                words,
                permanent: true,
                wait: Duration::ZERO,
                unauthorized: false,
            });
        }
        let mut line = Line::new(connected, Position::default()).map_err(|error| Failure {
            words: error.to_string(),
            permanent: false,
            wait: Duration::ZERO,
            unauthorized: false,
        })?;
        if self.speaks_v1 {
            line.push_text(&self.receiver.subscribe().encode());
        } else {
            let opening = self.manner.opening.iter();
            opening.for_each(|message| line.push_text(message.reveal()));
        }
        self.was_connected = true;
        self.line = Some(line);
        self.writes = true;
        self.pinged = false;
        self.asked_wait = Duration::ZERO;
        self.heard_at = Instant::now();
        Ok(())
    }

    /// When the server has been silent for too long.
    fn silent_at(&self) -> Instant {
        let silence_max = match (self.speaks_v1, self.receiver.silence_max()) {
            (false, _) => PING_INTERVAL,
            (true, None) => HELLO_TIMEOUT,
            (true, Some(silence_max)) => silence_max,
        };
        self.heard_at + silence_max
    }

    /// The server is silent: a plain one is asked once whether it lives, the other should have said so.
    fn silent(&mut self) -> Option<Event> {
        if self.speaks_v1 && self.receiver.silence_max().is_none() {
            let reason = "the server chose wirefall.v1 and does not say hello";
            return Some(self.broken(reason.into()));
        }
        if self.speaks_v1 || self.pinged {
            return Some(self.broken("the server answers no more".into()));
        }
        self.pinged = true;
        self.heard_at = Instant::now();
        let line = self.line.as_mut()?;
        line.push_control(Control::Ping, b"");
        None
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
            let line = self.line.as_mut()?;
            let (payload, kind) = match line.next()? {
                Ok(Message::Text(text)) => (text.into(), Kind::Text),
                Ok(Message::Binary(bytes)) => (bytes, Kind::Binary),
                Ok(Message::Close(close)) => return Some(self.closed(close.as_ref())),
                Ok(_) => continue,
                Err(error) => {
                    line.complain(&error);
                    return Some(self.broken(words::of_error(&error)));
                }
            };
            match self.understand(payload, kind) {
                Ok(None) => (),
                Ok(Some(event)) => return Some(event),
                Err(wrong) => {
                    let reason = format!("the server breaks wirefall.v1: {wrong}");
                    return Some(self.broken(reason));
                }
            }
        }
    }

    /// What a message means.
    fn understand(&mut self, payload: Bytes, kind: Kind) -> Result<Option<Event>, Wrong> {
        let heard = match self.speaks_v1 {
            true => self.receiver.hear(kind, &payload)?,
            false => Heard::Data,
        };
        self.was_welcome |= matches!(heard, Heard::Hello(_) | Heard::Data);
        if !matches!(heard, Heard::Hello(_) | Heard::Bye(_)) {
            self.wait = self.manner.backoff.0;
        }
        Ok(match heard {
            Heard::Data => Some(Event::Frame {
                payload,
                text: kind == Kind::Text,
            }),
            Heard::Hello(hello) => Some(Event::Hello(hello)),
            Heard::Gap(lost) => Some(Event::Gap(lost)),
            Heard::Mark => Some(Event::Marked),
            Heard::Bye(bye) => {
                let after = Duration::from_millis(bye.retry_after_ms.unwrap_or(0));
                self.asked_wait = after.min(RETRY_AFTER_MAX);
                if bye.reason == Reason::Restart {
                    self.restart_until = Some(Instant::now() + RESTART_LASTS);
                }
                Some(Event::Parting)
            }
            Heard::Life => None,
        })
    }

    /// The server has closed: for good, or to come again.
    fn closed(&mut self, close: Option<&CloseFrame>) -> Event {
        if let Some(line) = &mut self.line {
            line.write_now();
            line.answer_close();
        }
        let told = words::of_close(close);
        let code = close.map(|close| u16::from(close.code));
        let event = match code {
            Some(close::UNKNOWN | close::FORBIDDEN) if self.today.is_some() && self.was_welcome => {
                self.unauthorized = true;
                return self.broken(told);
            }
            Some(close::END) if self.speaks_v1 || self.manner.plain_ends => Event::End,
            Some(close::WRONG | close::UNKNOWN | close::FORBIDDEN | close::TAKEN) => {
                Event::Refused(told)
            }
            _ => return self.broken(told),
        };
        self.line = None;
        self.ended = Some(event.clone());
        event
    }

    /// Nothing came of an attempt: for good where no other helps, and none ever did.
    fn undialled(&mut self, failure: Failure) -> Event {
        if failure.permanent && !self.was_connected {
            let event = Event::Refused(failure.words);
            self.ended = Some(event.clone());
            return event;
        }
        self.unauthorized |= failure.unauthorized;
        self.asked_wait = failure.wait.min(RETRY_AFTER_MAX);
        self.broken(failure.words)
    }

    fn broken(&mut self, reason: String) -> Event {
        self.line = None;
        self.pinged = false;
        let wait = self.asked_wait + self.wait.mul_f64(fastrand::f64());
        let (least, most) = self.manner.backoff;
        let restarts = self
            .restart_until
            .is_some_and(|until| Instant::now() < until);
        let most = match restarts {
            true => most.min(RESTART_BACKOFF_MAX).max(least),
            false => most,
        };
        self.wait = (self.wait * 2).min(most);
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
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

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
        let mut subscription = Subscription::new(&url, None, Wanted::default(), None).unwrap();
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
