//! The client sink against real sockets: what arrives, what is confirmed, how it ends.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_util::sync::CancellationToken;
use wirefall::driver::Facts;
use wirefall::journal::memory::{Memory, Retention};
use wirefall::journal::{Journal, Position};
use wirefall::metrics::Metrics;
use wirefall::record::{Batch, Column, Outputs, Partition, Records};
use wirefall::sink::framing::Framer;
use wirefall::sink::websocket::DRIVER;
use wirefall::sink::websocket::receiver::{BreakHow, Faults, Options, Output, Receiver, Totals};
use wirefall::sink::{Delivered, Poisoned, SinkContext, SinkError, SinkPlan, Stop};

/// Nothing here takes so long, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that runs, and the file that it writes.
struct Peer {
    address: String,
    totals: Arc<Totals>,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Peer {
    async fn start(reply: bool, faults: Faults) -> Self {
        Self::start_at("127.0.0.1:0", tempfile::tempdir().unwrap(), reply, faults).await
    }

    async fn start_at(
        address: &str,
        folder: tempfile::TempDir,
        reply: bool,
        faults: Faults,
    ) -> Self {
        let options = Options {
            output: Output::File(folder.path().join("received")),
            reply,
            limit: None,
            faults,
        };
        let receiver = Receiver::bind(address, options).await.unwrap();
        let stop = CancellationToken::new();
        let peer = Self {
            address: receiver.address().unwrap().to_string(),
            totals: receiver.totals(),
            stop: stop.clone(),
            folder,
        };
        tokio::spawn(receiver.run(stop));
        peer
    }

    fn lines(&self) -> Vec<String> {
        let file: PathBuf = self.folder.path().join("received");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "url": format!("ws://{}/in", self.address),
            "proxy": "none",
            "reconnect": {"min": "1ms", "max": "20ms"},
        });
        let more = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(more);
        config
    }
}

fn plan(config: Value) -> Box<dyn SinkPlan> {
    match (DRIVER.check)(config, &Facts::default()) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems:?}"),
    }
}

fn batch(records: std::ops::Range<usize>) -> Batch {
    let lines = records.clone().map(|n| format!("{{\"n\":{n}}}"));
    Batch {
        number: 0,
        partition: Partition::new("test"),
        start: records.start as u64,
        positions: records.clone().map(|n| n as u64 + 1).collect(),
        records: Records::of_payloads(lines.collect::<Column>()),
    }
}

fn line_number(line: &str) -> usize {
    line.trim_start_matches("{\"n\":")
        .trim_end_matches('}')
        .parse()
        .unwrap_or_else(|_| panic!("not a record: {line}"))
}

struct Ended {
    result: Result<Delivered, SinkError>,
    poisoned: Vec<String>,
}

/// Carries `records` numbered records by a sink made of `config`.
async fn carry(config: Value, records: usize) -> Ended {
    carry_until(config, records, None, Stop::default()).await
}

/// The same; `fresh` is the config when it is read again, `stop` how the run is ended early.
async fn carry_until(config: Value, records: usize, fresh: Option<Value>, stop: Stop) -> Ended {
    let plan = plan(config);
    let journal: Arc<dyn Journal> = Arc::new(Memory::new(Retention {
        bytes_max: 1 << 20,
        age_max: None,
        history: false,
    }));
    let (confirmed, seen) = watch::channel(Position::default());
    let (poisoned, mut poison) = mpsc::channel::<Poisoned>(1);
    let context = SinkContext {
        state_dir: std::path::PathBuf::new(),
        pipeline: "test".into(),
        journal: Arc::clone(&journal),
        confirmed,
        poisoned,
        stop,
        metrics: Arc::new(Metrics::default()),
        reread: Arc::new(move || fresh.clone().ok_or("nothing to read again".into())),
    };
    let sink = plan.open(context).await.unwrap();
    let mut framer = Framer::new(plan.framing(), Position::default());
    tokio::spawn(async move {
        for start in (0..records).step_by(100) {
            let batch = batch(start..(start + 100).min(records));
            framer.push(&batch, &Outputs::unchanged(&batch.records), Duration::ZERO);
            if start + 100 >= records {
                framer.close();
            }
            while let Some(chunk) = framer.take() {
                // Nobody reads once the run is aborted.
                let _ = journal.append(chunk, Vec::new()).await;
            }
        }
        journal.close();
    });
    let failover = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(poisoned) = poison.recv().await {
            kept.push(String::from_utf8(poisoned.record.to_vec()).unwrap());
            let _ = poisoned.settled.send(());
        }
        kept
    });
    let result = tokio::time::timeout(PATIENCE, sink.run())
        .await
        .expect("the run ends");
    if let Ok(delivered) = &result {
        assert_eq!(
            delivered.confirmed,
            *seen.borrow(),
            "confirmed is published"
        );
    }
    Ended {
        result,
        poisoned: failover.await.unwrap(),
    }
}

/// Everything is there (I1), in order with what was sent again taken out (I3).
fn assert_all(lines: &[String], records: usize) {
    let mut next = 0;
    for line in lines {
        let n = line_number(line);
        assert!(n <= next, "{n} came before {next}");
        next = next.max(n + 1);
    }
    assert_eq!(next, records, "records that arrived");
}

#[tokio::test]
async fn i1_every_level_of_confirmation_delivers_everything_in_order() {
    let levels = [
        json!({"ack": "pong"}),
        json!({"ack": "written"}),
        json!({"ack": "message"}),
        json!({"ack": {"message": {"pointer": "/received"}}}),
        json!({"ack": "pong", "window": {"records": 3}}),
        json!({"ack": "pong", "window": {"bytes": 10}}),
        json!({"ack": "pong", "format": "binary"}),
    ];
    for level in levels {
        let reply = level["ack"] != "pong";
        let peer = Peer::start(reply, Faults::default()).await;
        let ended = carry(peer.config(level.clone()), 5_000).await;
        let delivered = ended.result.unwrap();
        assert_eq!(delivered.confirmed, Position(5_000), "{level}");
        assert_eq!(delivered.resent, 0, "{level}");
        assert_all(&peer.lines(), 5_000);
    }
}

#[tokio::test]
async fn i1_breaks_of_every_kind_lose_nothing() {
    let kinds = [
        BreakHow::Reset,
        BreakHow::Close,
        BreakHow::Stall,
        BreakHow::Refuse503,
    ];
    for how in kinds {
        for level in ["pong", "message"] {
            let faults = Faults {
                break_every: Some(700),
                how,
                ..Faults::default()
            };
            let peer = Peer::start(level == "message", faults).await;
            let config = json!({"ack": level, "confirm_timeout": "300ms"});
            let ended = carry(peer.config(config), 5_000).await;
            let delivered = ended.result.unwrap();
            assert_eq!(delivered.confirmed, Position(5_000), "{how:?} {level}");
            assert!(delivered.reconnects >= 5, "{how:?} {level}");
            assert_eq!(ended.poisoned, Vec::<String>::new(), "{how:?} {level}");
            assert_all(&peer.lines(), 5_000);
        }
    }
}

#[tokio::test]
async fn i2_a_record_that_kills_its_peer_goes_to_the_failover_and_the_rest_goes_on() {
    for framing in ["record", "ndjson", "json-array"] {
        let faults = Faults {
            break_on: Some(b"\"n\":77}".to_vec()),
            ..Faults::default()
        };
        let peer = Peer::start(false, faults).await;
        let mut config = json!({"ack": "pong", "framing": framing});
        if framing != "record" {
            config["batch"] = json!({"records": 40});
        }
        let ended = carry(peer.config(config), 1_000).await;
        assert_eq!(
            ended.result.unwrap().confirmed,
            Position(1_000),
            "{framing}"
        );
        assert_eq!(ended.poisoned, ["{\"n\":77}"], "{framing}");
        let mut seen = vec![0; 1_000];
        for line in peer.lines() {
            let line = line.trim_start_matches('[').trim_end_matches(']');
            line.replace("},{", "}\n{")
                .lines()
                .for_each(|record| seen[line_number(record)] += 1);
        }
        let missing: Vec<usize> = (0..1_000).filter(|n| seen[*n] == 0).collect();
        assert_eq!(missing, [77], "{framing}");
    }
}

#[tokio::test]
async fn ten_kills_of_the_peer_fail_over_no_good_record() {
    for every in [1, 2, 50] {
        let faults = Faults {
            break_every: Some(every),
            breaks_max: Some(10),
            ..Faults::default()
        };
        // A peer that breaks after each record cannot answer a Ping behind it; its reply goes out.
        let replies = every == 1;
        let peer = Peer::start(replies, faults).await;
        let level = if replies { "message" } else { "pong" };
        let ended = carry(peer.config(json!({"ack": level})), 2_000).await;
        assert_eq!(
            ended.result.unwrap().confirmed,
            Position(2_000),
            "every {every}"
        );
        assert_eq!(ended.poisoned, Vec::<String>::new(), "every {every}");
        assert_all(&peer.lines(), 2_000);
    }
}

#[tokio::test]
async fn a_peer_that_answers_pings_wrongly_or_never_is_refused_loudly() {
    let wrong = Faults {
        wrong_pongs: true,
        ..Faults::default()
    };
    let never = Faults {
        no_pong: true,
        ..Faults::default()
    };
    for faults in [wrong, never] {
        let peer = Peer::start(false, faults).await;
        let config = json!({"ack": "pong", "confirm_timeout": "200ms"});
        let ended = carry(peer.config(config), 10).await;
        let error = ended.result.unwrap_err();
        assert!(matches!(error, SinkError::Peer { .. }), "{error:?}");
        assert!(error.to_string().contains("ack: message"), "{error}");
        assert_eq!(
            peer.lines(),
            Vec::<String>::new(),
            "nothing counts before the probe"
        );
    }
}

#[tokio::test]
async fn i1_a_peer_that_goes_and_comes_back_ten_times_misses_nothing() {
    let mut peer = Peer::start(false, Faults::default()).await;
    let address = peer.address.clone();
    // So slow that the run outlives every restart.
    let config = peer.config(json!({"window": {"records": 4}}));
    let run = tokio::spawn(carry(config, 20_000));
    for kill in 1..=10 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while peer.totals.read()[0] < 50 && !run.is_finished() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "kill {kill}: no progress"
            );
            tokio::task::yield_now().await;
        }
        peer.stop.cancel();
        let folder = std::mem::replace(&mut peer.folder, tempfile::tempdir().unwrap());
        // The port is free once the old listener is dropped.
        peer = loop {
            if std::net::TcpListener::bind(&address).is_ok() {
                break Peer::start_at(&address, folder, false, Faults::default()).await;
            }
            tokio::task::yield_now().await;
        };
    }
    let ended = run.await.unwrap();
    let delivered = ended.result.unwrap();
    assert_eq!(delivered.confirmed, Position(20_000));
    assert!(delivered.reconnects >= 10, "{delivered:?}");
    assert_eq!(ended.poisoned, Vec::<String>::new());
    assert_all(&peer.lines(), 20_000);
}

#[tokio::test]
async fn refusals_before_the_first_success_end_the_run_with_the_servers_words() {
    for status in [400, 401, 403, 404, 451] {
        let faults = Faults {
            status: Some(status),
            ..Faults::default()
        };
        let peer = Peer::start(false, faults).await;
        let error = carry(peer.config(json!({})), 1).await.result.unwrap_err();
        assert!(matches!(error, SinkError::Environment { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(&status.to_string()), "{message}");
        assert!(message.contains("refused on request"), "{message}");
    }
}

/// A peer of the library's own making: answers Pings, and hands each connection and its headers to
/// `serve`.
async fn library_peer<F, R>(status: fn(&str) -> u16, serve: F) -> String
where
    F: Fn(usize, WebSocketStream<TcpStream>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut connections = 0;
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            #[expect(clippy::result_large_err, reason = "the library's type")]
            let callback = |request: &Request, response: Response| {
                let token = request.headers().get("authorization");
                let token = token.and_then(|token| token.to_str().ok());
                match status(token.unwrap_or_default()) {
                    101 => Ok(response),
                    status => {
                        let mut refusal = ErrorResponse::new(None);
                        *refusal.status_mut() = status.try_into().unwrap();
                        Err(refusal)
                    }
                }
            };
            if let Ok(socket) = tokio_tungstenite::accept_hdr_async(tcp, callback).await {
                tokio::spawn(serve(connections, socket));
                connections += 1;
            }
        }
    });
    address
}

#[tokio::test]
async fn a_peer_that_never_stops_talking_hurts_nobody() {
    let address = library_peer(
        |_| 101,
        |_, socket| async move {
            let (mut say, mut hear) = socket.split();
            tokio::spawn(async move {
                let chatter = "blah ".repeat(20_000);
                loop {
                    let ping = Message::Ping(vec![7; 100].into());
                    if say.feed(Message::text(chatter.clone())).await.is_err()
                        || say.send(ping).await.is_err()
                    {
                        return;
                    }
                }
            });
            while let Some(Ok(_)) = hear.next().await {}
        },
    )
    .await;
    let config = json!({"url": format!("ws://{address}"), "proxy": "none"});
    let delivered = carry(config, 5_000).await.result.unwrap();
    assert_eq!(delivered.confirmed, Position(5_000));
    assert_eq!(delivered.reconnects, 0);
}

/// Set once the first connection is over: from then on the old token is refused.
static ROTATED: AtomicBool = AtomicBool::new(false);

#[tokio::test]
async fn credentials_are_read_again_after_401() {
    let address = library_peer(
        |token| match (token, ROTATED.load(Ordering::SeqCst)) {
            ("Bearer old", false) | ("Bearer new", true) => 101,
            _ => 401,
        },
        |connection, mut socket| async move {
            let mut messages = 0;
            while let Some(Ok(message)) = socket.next().await {
                messages += usize::from(message.is_text());
                if connection == 0 && messages == 500 {
                    ROTATED.store(true, Ordering::SeqCst);
                    return;
                }
            }
        },
    )
    .await;
    let config = |token: &str| {
        json!({
            "url": format!("ws://{address}"),
            "headers": {"Authorization": token},
            "proxy": "none",
            "reconnect": {"min": "1ms", "max": "20ms"},
        })
    };
    let fresh = Some(config("Bearer new"));
    let ended = carry_until(config("Bearer old"), 2_000, fresh, Stop::default()).await;
    assert_eq!(ended.result.unwrap().confirmed, Position(2_000));
}

#[tokio::test]
async fn an_abort_ends_at_once_with_what_is_confirmed() {
    // A port that nobody listens on: it would dial for ever.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let silent = Peer::start(
        true,
        Faults {
            slow: Some(PATIENCE),
            ..Faults::default()
        },
    )
    .await;
    for address in [address.to_string(), silent.address.clone()] {
        let stop = Stop::default();
        let config = json!({"url": format!("ws://{address}"), "proxy": "none"});
        let run = tokio::spawn(carry_until(config, 100_000, None, stop.clone()));
        tokio::task::yield_now().await;
        stop.abort.cancel();
        let delivered = run.await.unwrap().result.unwrap();
        assert_eq!(delivered.confirmed, Position(0));
    }
}
