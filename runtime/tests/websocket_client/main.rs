//! The client sink against real sockets: what arrives, what is confirmed, how it ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod credentials;
mod harness;
mod lines;
mod places;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use wirefall::journal::Position;
use wirefall::sink::websocket::receiver::{BreakHow, Faults};
use wirefall::sink::{SinkError, Stop};

use harness::{PATIENCE, Peer, Run, assert_all, carry, library_peer, line_number, numbered};

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
        let run = Run {
            stop: stop.clone(),
            ..Run::new(config, numbered(100_000))
        };
        let run = tokio::spawn(run.carry());
        tokio::task::yield_now().await;
        stop.abort.cancel();
        let delivered = run.await.unwrap().result.unwrap();
        assert_eq!(delivered.confirmed, Position(0));
    }
}
