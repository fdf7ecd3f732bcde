//! The server as its subscribers see it: real sockets on loopback, a memory journal behind.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::*;
use crate::driver::Facts;
use crate::journal::memory::{Memory, Retention};
use crate::journal::{Journal as _, Position};
use crate::metrics::Metrics;
use crate::port::gate::Credentials;
use crate::record::{Batch, Outputs, Partition, Records};
use crate::sink::Stop;
use crate::sink::framing::Framer;

mod auth;
mod tls;
mod v1;

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Longest wait for anything: far beyond what any of it takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

struct Running {
    address: SocketAddr,
    journal: Memory,
    framer: Framer,
    published: u64,
    stop: Stop,
    metrics: Arc<Metrics>,
    run: JoinHandle<Result<Delivered, SinkError>>,
    /// Its state folder.
    folder: tempfile::TempDir,
}

impl Running {
    async fn start(settings: Value, journal_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder, settings, journal_bytes).await
    }

    async fn start_in(folder: tempfile::TempDir, settings: Value, journal_bytes: u64) -> Self {
        let mut config = json!({ "listen": "127.0.0.1:0" });
        for (key, value) in settings.as_object().expect("settings are a map") {
            config[key] = value.clone();
        }
        let facts = Facts {
            pipeline: "flights".to_owned(),
            ..Facts::default()
        };
        let plan = check(config, &facts).expect("a plan");
        let journal = Memory::new(Retention {
            bytes_max: journal_bytes,
            age_max: None,
            history: true,
        });
        let stop = Stop::default();
        let metrics = Arc::new(Metrics::default());
        let context = SinkContext {
            from: Position::default(),
            pipeline: facts.pipeline.clone(),
            state_dir: folder.path().to_owned(),
            credentials: Credentials::of(folder.path()),
            journal: Arc::new(journal.clone()),
            confirmed: watch::Sender::default(),
            poisoned: mpsc::channel(1).0,
            stop: stop.clone(),
            metrics: Arc::clone(&metrics),
            reread: Arc::new(|| Err("unused".to_owned())),
        };
        let sink = plan.open(context).await.expect("a free port");
        let stream = sink.greeting().pop().expect("a line with the stream");
        let address = stream
            .split('/')
            .nth(2)
            .and_then(|address| address.parse().ok())
            .expect("an address");
        Self {
            address,
            journal,
            framer: Framer::new(plan.framing(), Position(0)),
            published: 0,
            stop,
            metrics,
            run: tokio::spawn(sink.run()),
            folder,
        }
    }

    /// Appends records with the numbers that follow, padded to `bytes`.
    async fn publish(&mut self, count: u64, bytes: usize) {
        self.publish_with(count, bytes, |_| None).await;
    }

    /// The same, each with a key.
    async fn publish_with(
        &mut self,
        count: u64,
        bytes: usize,
        key: impl Fn(u64) -> Option<&'static str>,
    ) {
        let numbers = self.published..self.published + count;
        let payloads = numbers.clone().map(|n| format!("{n:0bytes$}")).collect();
        let mut records = Records::of_payloads(payloads);
        records.keys = numbers.map_while(key).collect();
        let batch = Batch {
            number: 0,
            partition: Partition::new("p"),
            start: self.published,
            positions: (self.published + 1..=self.published + count).collect(),
            records,
        };
        let outputs = Outputs::unchanged(&batch.records);
        self.framer.push(&batch, &outputs, Duration::ZERO);
        self.published += count;
        while let Some(chunk) = self.framer.take() {
            let appended = self.journal.append(chunk, Vec::new()).await;
            appended.expect("room");
        }
    }

    fn url(&self) -> String {
        format!("ws://{}/v1/streams/flights", self.address)
    }

    /// Subscribes, and waits until the server counts it: what is published from then on is seen.
    async fn subscribe(&self) -> Client {
        let before = self.metrics.subscribers.get();
        let (client, _) = tokio_tungstenite::connect_async(self.url())
            .await
            .expect("let in");
        self.until_subscribers(before + 1).await;
        client
    }

    async fn until_subscribers(&self, count: u64) {
        let until = async {
            while self.metrics.subscribers.get() != count {
                tokio::task::yield_now().await;
            }
        };
        soon("the count of subscribers", until).await;
    }

    async fn ended(self) -> Delivered {
        soon("the end of the run", self.run)
            .await
            .expect("no panic")
            .expect("no error")
    }
}

/// The next record's number, or the Close.
async fn next(client: &mut Client) -> Result<u64, (u16, String)> {
    loop {
        match soon("a frame", client.next()).await {
            Some(Ok(Message::Text(text))) => return Ok(text.parse().expect("a number")),
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err((frame.code.into(), frame.reason.to_string()));
            }
            Some(Ok(_)) => (),
            other => panic!("broken: {other:?}"),
        }
    }
}

async fn status(running: &Running, headers: &[(&'static str, &str)]) -> u16 {
    let mut request = running.url().into_client_request().expect("a request");
    for (name, value) in headers {
        let value = value.parse().expect("a header");
        request.headers_mut().insert(*name, value);
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok(_) => 101,
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("no answer: {error}"),
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    get_with(address, path, "").await
}

/// The same with header lines.
async fn get_with(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a port");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer))
        .await
        .expect("text");
    answer
}

#[tokio::test]
async fn i3_every_subscriber_sees_everything_from_the_newest_on_in_order() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    running.publish(10, 8).await;
    let mut clients = [running.subscribe().await, running.subscribe().await];
    for _ in 0..50 {
        running.publish(100, 300).await;
    }
    for client in &mut clients {
        for number in 10..5010 {
            assert_eq!(next(client).await, Ok(number));
        }
    }
    assert_eq!(running.metrics.records_sent.get(), 10_000);
}

#[tokio::test]
async fn i2_a_subscriber_that_falls_behind_is_told_how_far() {
    let mut running = Running::start(json!({}), 1 << 20).await;
    let mut client = running.subscribe().await;
    // More than the kernel takes for a peer that does not read.
    while running.published < 40_000 {
        running.publish(100, 1000).await;
        tokio::task::yield_now().await;
    }
    let mut seen = 0;
    let (code, reason) = loop {
        match next(&mut client).await {
            Ok(number) => assert_eq!(number, seen),
            Err(close) => break close,
        }
        seen += 1;
    };
    assert_eq!(code, 4008);
    let lost: u64 = reason
        .strip_prefix("fell behind: ")
        .and_then(|rest| rest.strip_suffix(" records lost"))
        .and_then(|lost| lost.parse().ok())
        .unwrap_or_else(|| panic!("{reason}"));
    assert!(lost > 0 && seen + lost < 40_000, "{seen} seen, {lost} lost");
    drop(client);
    running.until_subscribers(0).await;
}

#[tokio::test]
async fn exit_waits_until_the_connected_have_everything() {
    let mut running = Running::start(json!({ "at_end": "exit" }), 64 << 20).await;
    let mut client = running.subscribe().await;
    running.publish(20_000, 1000).await;
    running.journal.close();
    for number in 0..20_000 {
        assert_eq!(next(&mut client).await, Ok(number));
    }
    let close = (1000, "end of stream".to_owned());
    assert_eq!(next(&mut client).await, Err(close));
    assert!(client.next().await.is_none());
    assert_eq!(running.ended().await.confirmed, Position(20_000));
}

#[tokio::test]
async fn serve_stays_after_the_source_and_a_drain_says_so() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    running.publish(5, 8).await;
    running.journal.close();
    let mut client = running.subscribe().await;
    let ready = get(running.address, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    running.stop.drain.cancel();
    let close = (1012, "restart".to_owned());
    assert_eq!(next(&mut client).await, Err(close));
    assert!(client.next().await.is_none());
    running.ended().await;
}

#[tokio::test]
async fn i1_a_drain_without_subscribers_waits_for_what_was_read() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    running.stop.drain.cancel();
    let ending = async {
        while !get(running.address, "/readyz")
            .await
            .starts_with("HTTP/1.1 503")
        {
            tokio::task::yield_now().await;
        }
    };
    soon("an end of being ready", ending).await;
    // It still answers: it lives, and takes nobody any more.
    let alive = get(running.address, "/healthz").await;
    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    let refused = tokio_tungstenite::connect_async(running.url()).await;
    let refused = refused.expect_err("nobody is let in").to_string();
    assert!(refused.contains("503"), "{refused}");
    assert!(!running.run.is_finished());
    running.publish(7, 8).await;
    running.journal.close();
    assert_eq!(running.ended().await.confirmed, Position(7));
}

#[tokio::test]
async fn a_drain_brings_what_the_journal_has_first() {
    let mut running = Running::start(json!({ "flush": "1s" }), 64 << 20).await;
    let mut client = running.subscribe().await;
    running.stop.drain.cancel();
    running.publish(1000, 8).await;
    running.journal.close();
    for number in 0..1000 {
        assert_eq!(next(&mut client).await, Ok(number));
    }
    assert_eq!(next(&mut client).await.map_err(|(code, _)| code), Err(1012));
    assert!(client.next().await.is_none());
    running.ended().await;
}

#[tokio::test]
async fn i4_an_abort_waits_for_nobody() {
    let mut running = Running::start(json!({ "at_end": "exit" }), 64 << 20).await;
    let stalled = running.subscribe().await;
    running.publish(20_000, 1000).await;
    running.journal.close();
    running.stop.drain.cancel();
    running.stop.abort.cancel();
    running.ended().await;
    drop(stalled);
}

#[tokio::test]
async fn who_may_read_is_decided_before_the_upgrade() {
    let running = Running::start(json!({ "origins": ["https://ok.example"] }), 1 << 20).await;
    let own = format!("http://{}", running.address);
    for (headers, expected) in [
        (vec![], 101),
        (vec![("origin", own.as_str())], 101),
        (vec![("origin", "https://ok.example")], 101),
        (vec![("origin", "https://evil.example")], 403),
        (vec![("origin", "null")], 403),
        (vec![("host", "evil.example")], 403),
        (vec![("sec-websocket-version", "8")], 426),
    ] {
        assert_eq!(status(&running, &headers).await, expected, "{headers:?}");
    }
    for (path, expected) in [
        ("/healthz", "HTTP/1.1 200"),
        ("/readyz", "HTTP/1.1 200"),
        ("/", "HTTP/1.1 200"),
        ("/v1/streams/flights", "HTTP/1.1 426"),
        ("/v1/streams/other", "HTTP/1.1 404"),
    ] {
        let answer = get(running.address, path).await;
        assert!(answer.starts_with(expected), "{path}: {answer}");
    }
}

#[tokio::test]
async fn the_client_is_served_to_the_pages_that_may_subscribe() {
    let origins = json!({ "origins": ["https://dashboard.example"] });
    let running = Running::start(origins, 1 << 20).await;
    let script = async |origin| get_with(running.address, page::SCRIPT_PATH, origin).await;
    let own = script("").await;
    assert!(own.contains("content-type: text/javascript"), "{own}");
    assert!(own.contains("export class Wirefall"), "{own}");
    assert!(!own.contains("access-control-allow-origin"), "{own}");
    let listed = script("Origin: https://dashboard.example\r\n").await;
    let allowed = "access-control-allow-origin: https://dashboard.example\r\n";
    assert!(listed.contains(allowed), "{listed}");
    let foreign = script("Origin: https://evil.example\r\n").await;
    assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
}

#[tokio::test]
async fn the_status_tells_how_far_a_position_is_behind() {
    let mut running = Running::start(json!({}), 1 << 20).await;
    running.publish(10, 8).await;
    let _client = running.subscribe().await;
    let epoch = running.journal.epoch();
    for (position, behind) in [
        (format!("{epoch:x}.3"), json!(7)),
        (format!("{epoch:x}.10"), json!(0)),
        (format!("{:x}.3", epoch.wrapping_add(1)), Value::Null),
        (String::new(), Value::Null),
    ] {
        let path = format!("/v1/streams/flights/status?position={position}");
        let answer = get(running.address, &path).await;
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        let told: Value = serde_json::from_str(body).expect("JSON");
        let expected =
            json!({ "stream": "flights", "behind": behind, "subscribers": 1, "ended": false });
        assert_eq!(told, expected, "{position}");
    }
}

/// Its path goes before what would be a resource of another stream.
#[tokio::test]
async fn a_stream_may_be_named_like_a_resource() {
    for path in ["/v1/streams/status", "/v1/streams/names", "/names/a"] {
        let running = Running::start(json!({ "path": path }), 1 << 20).await;
        let url = format!("ws://{}{path}", running.address);
        let connected = tokio_tungstenite::connect_async(url).await;
        assert!(connected.is_ok(), "{path}: {connected:?}");
    }
}

#[tokio::test]
async fn i4_subscribers_are_bounded() {
    let running = Running::start(json!({ "subscribers_max": 1 }), 1 << 20).await;
    let client = running.subscribe().await;
    assert_eq!(status(&running, &[]).await, 503);
    assert_eq!(running.metrics.too_many.subscribers.get(), 1);
    drop(client);
    running.until_subscribers(0).await;
    running.subscribe().await;
}

#[tokio::test]
async fn i4_a_subscriber_that_answers_no_ping_is_let_go() {
    let running = Running::start(json!({ "ping_interval": "20ms" }), 1 << 20).await;
    let silent = running.subscribe().await;
    running.until_subscribers(0).await;
    drop(silent);
}

#[tokio::test]
async fn i4_a_subscriber_that_takes_nothing_is_let_go() {
    let mut running = Running::start(json!({ "write_timeout": "50ms" }), 64 << 20).await;
    let stalled = running.subscribe().await;
    running.publish(20_000, 1000).await;
    running.until_subscribers(0).await;
    drop(stalled);
}

#[tokio::test]
async fn i4_a_silent_connection_is_dropped() {
    let running = Running::start(json!({ "handshake_timeout": "50ms" }), 1 << 20).await;
    let mut stream = TcpStream::connect(running.address).await.expect("a port");
    stream.write_all(b"GET / HT").await.expect("sent");
    let mut answer = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
}

#[tokio::test]
async fn i4_connections_that_say_nothing_keep_nobody_out() {
    let running = Running::start(json!({ "subscribers_max": 1 }), 1 << 20).await;
    let mut silent = Vec::new();
    for _ in 0..3 * (VISITORS_MAX + 1) {
        let mut stream = TcpStream::connect(running.address).await.expect("a port");
        stream.write_all(b"GET / HT").await.expect("sent");
        silent.push(stream);
    }
    running.subscribe().await;
    assert!(get(running.address, "/readyz").await.contains("200 OK"));
}

#[tokio::test]
async fn a_handshake_of_http_1_0_is_told_so() {
    let running = Running::start(json!({}), 1 << 20).await;
    let mut stream = TcpStream::connect(running.address).await.expect("a port");
    let request = "GET /v1/streams/flights HTTP/1.0\r\nHost: localhost\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer))
        .await
        .expect("text");
    assert!(answer.starts_with("HTTP/1.0 400"), "{answer}");
}

#[tokio::test]
async fn a_ping_in_the_middle_of_the_stream_is_answered_between_two_frames() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    let mut client = running.subscribe().await;
    let mut pongs = 0;
    for round in 0..20_u8 {
        running.publish(1000, 1000).await;
        let ping = Message::Ping(vec![round].into());
        client.send(ping).await.expect("sent");
    }
    let mut seen = 0;
    while seen < 20_000 || pongs < 20 {
        match soon("a frame", client.next()).await {
            Some(Ok(Message::Text(text))) => {
                assert_eq!(text.parse(), Ok(seen));
                seen += 1;
            }
            Some(Ok(Message::Pong(payload))) => {
                assert_eq!(*payload, [pongs]);
                pongs += 1;
            }
            other => panic!("broken: {other:?}"),
        }
    }
}
