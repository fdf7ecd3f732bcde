//! Subscribers that speak `wirefall.v1`, over real sockets.

use super::*;
use crate::sink::websocket::protocol::{Heard, Hello, Keys, Kind, Place, Reason, Receiver, Wanted};

/// A subscriber with a place.
struct Peer {
    client: Client,
    receiver: Receiver,
}

/// What a peer is told beside records.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Record(u64),
    Gap(Option<u64>),
    Bye(Reason),
    Closed(u16, String),
}

impl Running {
    async fn dial_v1(&self) -> Client {
        let mut request = self.url().into_client_request().expect("a request");
        let offered = "wirefall.v2, wirefall.v1, wirefall.plain".parse();
        let offered = offered.expect("a header");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", offered);
        let (client, answer) = tokio_tungstenite::connect_async(request)
            .await
            .expect("let in");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "wirefall.v1");
        client
    }

    async fn resume(&self, mut receiver: Receiver) -> (Peer, Hello) {
        let mut client = self.dial_v1().await;
        let subscribe = receiver.subscribe().encode();
        client.send(Message::text(subscribe)).await.expect("sent");
        let hello = match hear(&mut client, &mut receiver).await {
            Ok(Heard::Hello(hello)) => hello,
            other => panic!("no hello: {other:?}"),
        };
        (Peer { client, receiver }, hello)
    }

    async fn ask(&self, wanted: Wanted) -> (Peer, Hello) {
        self.resume(Receiver::new(wanted, None)).await
    }

    async fn from(&self, from: &str) -> (Peer, Hello) {
        let from = Some(from.parse().expect("a place to start"));
        self.ask(Wanted {
            from,
            ..Wanted::default()
        })
        .await
    }

    async fn named(&self, name: &str) -> (Peer, Hello) {
        self.ask(Wanted {
            name: Some(name.to_owned()),
            ..Wanted::default()
        })
        .await
    }
}

/// The next frame, as the receiver takes it; or the Close.
async fn hear(client: &mut Client, receiver: &mut Receiver) -> Result<Heard, (u16, String)> {
    loop {
        let (kind, payload) = match soon("a frame", client.next()).await {
            Some(Ok(Message::Text(text))) => (Kind::Text, text.into()),
            Some(Ok(Message::Binary(bytes))) => (Kind::Binary, bytes),
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err((frame.code.into(), frame.reason.to_string()));
            }
            Some(Ok(_)) => continue,
            other => panic!("broken: {other:?}"),
        };
        let heard = receiver.hear(kind, &payload).expect("the protocol is kept");
        if heard == Heard::Data {
            let number: u64 = std::str::from_utf8(&payload)
                .expect("text")
                .parse()
                .expect("a number");
            LAST.set(number);
        }
        return Ok(heard);
    }
}

thread_local! {
    /// The record that `hear` took last.
    static LAST: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl Peer {
    /// What comes next, marks and heartbeats aside.
    async fn next(&mut self) -> Told {
        loop {
            return match hear(&mut self.client, &mut self.receiver).await {
                Ok(Heard::Data) => Told::Record(LAST.get()),
                Ok(Heard::Gap(lost)) => Told::Gap(lost),
                Ok(Heard::Bye(bye)) => Told::Bye(bye.reason),
                Ok(Heard::Mark | Heard::Life | Heard::Hello(_)) => continue,
                Err((code, reason)) => Told::Closed(code, reason),
            };
        }
    }

    async fn takes(&mut self, records: std::ops::Range<u64>) {
        for record in records {
            assert_eq!(self.next().await, Told::Record(record));
        }
    }

    /// Waits until it is told a position behind the last record.
    async fn until_marked(&mut self) -> Place {
        loop {
            match self.receiver.place() {
                Some(place) if place.since == 0 => return place.clone(),
                _ => drop(hear(&mut self.client, &mut self.receiver).await),
            }
        }
    }

    async fn says(&mut self, text: &str) {
        self.client.send(Message::text(text)).await.expect("sent");
    }

    async fn acks(&mut self) {
        let place = self.receiver.place().expect("hello came").clone();
        let ack = crate::sink::websocket::protocol::Request::Ack(place);
        self.says(&ack.encode()).await;
    }

    async fn closed(mut self) -> (u16, String) {
        loop {
            if let Told::Closed(code, reason) = self.next().await {
                return (code, reason);
            }
        }
    }
}

#[tokio::test]
async fn i3_v1_brings_the_plain_frames_with_marks_between() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    running.publish(10, 8).await;
    let (mut peer, hello) = running.from("latest").await;
    assert!(hello.resumed);
    assert_eq!((hello.stream.as_str(), hello.from), ("flights", hello.head));
    let mut plain = running.subscribe().await;
    for _ in 0..50 {
        running.publish(100, 300).await;
    }
    peer.takes(10..5010).await;
    let place = peer.until_marked().await;
    assert!(place.position.ends_with(".5010"), "{place:?}");
    for number in 10..5010 {
        assert_eq!(next(&mut plain).await, Ok(number));
    }
}

#[tokio::test]
async fn earliest_latest_and_the_newest_are_where_they_say() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    running.publish(100, 8).await;
    for (from, first) in [("earliest", 0), ("-7", 93), ("-1000", 0)] {
        let (mut peer, hello) = running.from(from).await;
        assert_eq!((hello.resumed, hello.lost), (true, Some(0)));
        peer.takes(first..100).await;
    }
}

#[tokio::test]
async fn i2_a_break_at_any_frame_loses_and_repeats_nothing() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    let (mut peer, _) = running.from("earliest").await;
    let mut seen = 0;
    for round in 0..20 {
        running.publish(1000, 100).await;
        let part = 1 + 997 * round % 1000;
        let until = (seen + part).min(running.published);
        peer.takes(seen..until).await;
        seen = until;
        // Without a Close, and with frames under way.
        let Peer { client, receiver } = peer;
        drop(client);
        let hello;
        (peer, hello) = running.resume(receiver).await;
        assert_eq!((hello.resumed, hello.lost), (true, Some(0)));
    }
    peer.takes(seen..running.published).await;
}

#[tokio::test]
async fn i2_with_frames_of_several_records_a_place_is_exact_too() {
    let settings = json!({ "framing": "ndjson", "batch": { "records": 7, "time": "1ms" } });
    let mut running = Running::start(settings, 64 << 20).await;
    running.publish(700, 8).await;
    // The newest ten begin in the middle of a frame: what is left of it comes record by record.
    let (mut peer, hello) = running.from("-10").await;
    assert!(hello.from.ends_with(".690"), "{hello:?}");
    let mut lines = Vec::new();
    let mut client = peer.client;
    while lines.len() < 10 {
        match soon("a frame", client.next()).await {
            Some(Ok(Message::Text(text))) => {
                assert!(peer.receiver.hear(Kind::Text, text.as_bytes()).is_ok());
                lines.extend(
                    text.lines()
                        .map(|line| line.parse::<u64>().expect("a number")),
                );
                if lines.len() == 2 {
                    // In mid-frame, before any mark.
                    drop(client);
                    let (again, hello) = running.resume(peer.receiver).await;
                    assert!(hello.resumed && hello.from.ends_with(".692"), "{hello:?}");
                    peer = again;
                    client = peer.client;
                }
            }
            Some(Ok(Message::Binary(bytes))) => {
                assert!(peer.receiver.hear(Kind::Binary, &bytes).is_ok());
            }
            other => panic!("broken: {other:?}"),
        }
    }
    assert!(lines.iter().copied().eq(690..700), "{lines:?}");
}

#[tokio::test]
async fn i2_what_is_gone_is_told() {
    let mut running = Running::start(json!({}), 64 << 10).await;
    running.publish(10, 100).await;
    let (mut peer, _) = running.from("earliest").await;
    peer.takes(0..10).await;
    peer.until_marked().await;
    let Peer { client, receiver } = peer;
    drop(client);
    while running.journal.marks().borrow().tail <= Position(10) {
        running.publish(10, 100).await;
    }
    let tail = running.journal.marks().borrow().tail;
    let (mut peer, hello) = running.resume(receiver).await;
    assert_eq!((hello.resumed, hello.lost), (false, Some(tail.0 - 10)));
    peer.takes(tail.0..running.published).await;
    let (_, hello) = running.from("5f3a9c.7").await;
    assert_eq!((hello.resumed, hello.lost), (false, None));
    let metrics = &running.metrics;
    let counted = (metrics.late.get(), metrics.records_missed.get());
    assert_eq!(counted, (2, tail.0 - 10));
}

#[tokio::test]
async fn i2_who_skips_is_told_the_gap() {
    let mut running = Running::start(json!({ "on_lag": "skip" }), 1 << 20).await;
    let (mut peer, _) = running.from("latest").await;
    // More than the kernel takes for a peer that does not read.
    while running.published < 40_000 {
        running.publish(100, 1000).await;
        tokio::task::yield_now().await;
    }
    let (mut seen, mut missing) = (0, 0);
    while seen + missing < 40_000 {
        match peer.next().await {
            Told::Record(record) => {
                assert_eq!(record, seen + missing);
                seen += 1;
            }
            Told::Gap(lost) => missing += lost.expect("it is known"),
            other => panic!("{other:?}"),
        }
    }
    assert!(missing > 0);
    assert_eq!(running.metrics.records_lost.get(), missing);
    assert!(running.metrics.behind_skipped.get() > 0);
}

#[tokio::test]
async fn i2_who_is_disconnected_comes_back_and_is_told_the_same_loss() {
    let mut running = Running::start(json!({}), 1 << 20).await;
    let (mut peer, _) = running.from("latest").await;
    while running.published < 40_000 {
        running.publish(100, 1000).await;
        tokio::task::yield_now().await;
    }
    let mut seen = 0;
    loop {
        match peer.next().await {
            Told::Record(record) => assert_eq!(record, seen),
            Told::Bye(reason) => break assert_eq!(reason, Reason::Behind),
            other => panic!("{other:?}"),
        }
        seen += 1;
    }
    assert_eq!(peer.receiver.place().map(|place| place.since), Some(0));
    assert_eq!(running.metrics.behind_disconnected.get(), 1);
    let tail = running.journal.marks().borrow().tail;
    let (mut peer, hello) = running.resume(peer.receiver).await;
    assert_eq!((hello.resumed, hello.lost), (false, Some(tail.0 - seen)));
    peer.takes(tail.0..40_000).await;
}

#[tokio::test]
async fn a_drain_says_when_to_come_again_and_the_end_says_that_it_is() {
    for (settings, drains, bye, close) in [
        (json!({}), true, Reason::Restart, (1012, "restart")),
        (
            json!({ "at_end": "exit" }),
            false,
            Reason::End,
            (1000, "end of stream"),
        ),
    ] {
        let mut running = Running::start(settings, 64 << 20).await;
        let (mut peer, _) = running.from("earliest").await;
        running.publish(100, 8).await;
        if drains {
            running.stop.drain.cancel();
        }
        running.journal.close();
        peer.takes(0..100).await;
        assert_eq!(peer.next().await, Told::Bye(bye));
        assert_eq!(peer.next().await, Told::Closed(close.0, close.1.to_owned()));
        drop(peer);
        running.ended().await;
    }
}

#[tokio::test]
async fn who_has_not_asked_yet_is_told_to_come_again_too() {
    let running = Running::start(json!({}), 1 << 20).await;
    let mut client = running.dial_v1().await;
    running.until_subscribers(1).await;
    running.stop.drain.cancel();
    let close = next(&mut client).await.expect_err("a Close");
    assert_eq!(close, (1012, "restart".to_owned()));
}

#[tokio::test]
async fn an_ack_after_bye_counts() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    let (mut peer, _) = running.named("archive").await;
    running.publish(10, 8).await;
    running.stop.drain.cancel();
    running.journal.close();
    peer.takes(0..10).await;
    assert_eq!(peer.next().await, Told::Bye(Reason::Restart));
    peer.acks().await;
    peer.closed().await;
    let journal = running.journal.clone();
    running.ended().await;
    assert_eq!(journal.remembered("archive"), Some(Position(10).into()));
}

#[tokio::test]
async fn a_heartbeat_comes_when_nothing_else_does() {
    let running = Running::start(json!({ "heartbeat": "20ms" }), 1 << 20).await;
    let (mut peer, hello) = running.from("latest").await;
    assert_eq!(hello.heartbeat_ms, 20);
    for _ in 0..3 {
        let heard = hear(&mut peer.client, &mut peer.receiver).await;
        assert_eq!(heard, Ok(Heard::Life));
    }
}

#[tokio::test]
async fn i4_who_says_nothing_or_something_wrong_is_told_and_let_go() {
    let running = Running::start(json!({ "handshake_timeout": "50ms" }), 1 << 20).await;
    let mut silent = running.dial_v1().await;
    let close = next(&mut silent).await.expect_err("a Close");
    assert_eq!(close, (4408, "no `subscribe` within 50ms".to_owned()));

    let running = Running::start(json!({}), 1 << 20).await;
    for (says, code, why) in [
        (
            &["{\"type\":\"subscribe\",\"from\":\"-0\"}"][..],
            4400,
            "1 at least",
        ),
        (
            &["{\"type\":\"ack\",\"position\":\"a.1\"}"],
            4400,
            "before `subscribe`",
        ),
        (
            &["{\"type\":\"subscribe\"}"; 2],
            4400,
            "a second `subscribe`",
        ),
        (
            &["{\"type\":\"unsubscribe\"}"],
            4400,
            "none of subscribe, ack",
        ),
        (&[&"x".repeat(65_537)], 1009, "too long"),
    ] {
        let mut client = running.dial_v1().await;
        for said in says {
            client.send(Message::text(*said)).await.expect("sent");
        }
        let close = loop {
            match soon("a Close", client.next()).await {
                Some(Ok(Message::Close(Some(close)))) => break close,
                Some(Ok(_)) => (),
                other => panic!("{says:?}: {other:?}"),
            }
        };
        assert_eq!(u16::from(close.code), code, "{says:.80?}");
        assert!(close.reason.contains(why), "{}", close.reason);
    }
    let (mut peer, hello) = running.from("latest").await;
    let (epoch, _) = hello.head.split_once('.').expect("a position");
    peer.says(&format!(r#"{{"type":"ack","position":"{epoch}.1"}}"#))
        .await;
    let close = peer.closed().await;
    assert_eq!(close, (4400, "`ack` beyond what was sent".to_owned()));
    assert_eq!(running.metrics.breaches.get(), 6);
}

#[tokio::test]
async fn a_name_goes_on_where_it_acknowledged() {
    let mut running = Running::start(json!({}), 64 << 20).await;
    let (mut peer, _) = running.named("archive").await;
    running.publish(100, 8).await;
    peer.takes(0..40).await;
    peer.acks().await;
    peer.takes(40..100).await;
    drop(peer);
    running.until_subscribers(0).await;
    let (mut peer, hello) = running.named("archive").await;
    assert_eq!((hello.resumed, hello.lost), (true, Some(0)));
    peer.takes(40..100).await;
    // Before its first ack a name stays where it began.
    drop(running.named("fresh").await);
    running.publish(10, 8).await;
    let (mut peer, _) = running.named("fresh").await;
    peer.takes(100..110).await;
}

#[tokio::test]
async fn a_second_session_of_a_name_ends_the_first() {
    let running = Running::start(json!({}), 64 << 20).await;
    let (first, _) = running.named("archive").await;
    let (mut second, _) = running.named("archive").await;
    let close = (4409, "another session took this name".to_owned());
    assert_eq!(first.closed().await, close);
    running.until_subscribers(1).await;
    let mut running = running;
    running.publish(5, 8).await;
    second.takes(0..5).await;
    assert_eq!(running.metrics.names_taken.get(), 1);
}

#[tokio::test]
async fn i4_a_name_that_may_hold_the_journal_does_so_for_as_long_as_it_may() {
    let lag = json!({ "block": ["archive"], "deadline": "200ms", "then": "skip" });
    let mut running = Running::start(json!({ "on_lag": lag }), 64 << 10).await;
    let (mut peer, _) = running.named("archive").await;
    running.publish(100, 100).await;
    peer.takes(0..100).await;
    peer.acks().await;
    drop(peer);
    running.until_subscribers(0).await;
    // It is away: the journal fills, then the source waits; and after the deadline it goes on.
    let started = std::time::Instant::now();
    while running.metrics.holds_expired.get() == 0 {
        running.publish(100, 100).await;
        assert!(started.elapsed() < PATIENCE);
    }
    assert!(
        started.elapsed() >= Duration::from_millis(190),
        "{:?}",
        started.elapsed()
    );
    assert!(
        running.journal.marks().borrow().tail <= Position(200),
        "it was held"
    );
    while running.journal.marks().borrow().tail <= Position(200) {
        running.publish(100, 100).await;
    }
    let (_, hello) = running.named("archive").await;
    let tail = running.journal.marks().borrow().tail;
    assert_eq!((hello.resumed, hello.lost), (false, Some(tail.0 - 100)));
}

#[tokio::test]
async fn i2_a_filter_brings_each_record_of_its_keys_through_breaks() {
    let framings = [
        json!({}),
        json!({ "framing": "ndjson", "batch": { "records": 7, "time": "1ms" } }),
    ];
    for settings in framings {
        let mut running = Running::start(settings, 64 << 20).await;
        let wanted = Wanted {
            from: Some("earliest".parse().expect("a word")),
            keys: Some(Keys::new(["three".to_owned(), "none".to_owned()])),
            ..Wanted::default()
        };
        let key = |n: u64| {
            Some(if n.is_multiple_of(3) {
                "three"
            } else {
                "other"
            })
        };
        let (mut peer, _) = running.ask(wanted).await;
        let mut seen = 0;
        for round in 0..10_u64 {
            running.publish_with(700, 50, key).await;
            for _ in 0..1 + 37 * round % 200 {
                assert_eq!(peer.next().await, Told::Record(seen));
                seen += 3;
            }
            let Peer { client, receiver } = peer;
            drop(client);
            let hello;
            (peer, hello) = running.resume(receiver).await;
            assert_eq!((hello.resumed, hello.lost), (true, Some(0)));
        }
        while seen < running.published {
            assert_eq!(peer.next().await, Told::Record(seen));
            seen += 3;
        }
        // What passes by without a record for it moves its place all the same.
        let before = peer.until_marked().await;
        let marks = running.journal.marks();
        while running.published < 200_000 {
            running.publish_with(700, 50, |_| Some("other")).await;
        }
        while peer.receiver.place() == Some(&before) {
            let heard = hear(&mut peer.client, &mut peer.receiver).await;
            assert_eq!(heard, Ok(Heard::Mark));
        }
        assert!(marks.borrow().head > Position(seen));
    }
}

#[tokio::test]
async fn i2_acks_between_marks_are_exact_and_one_behind_means_nothing() {
    let settings = json!({ "framing": "ndjson", "batch": { "records": 7, "time": "1ms" } });
    let mut running = Running::start(settings, 64 << 20).await;
    let (mut peer, hello) = running.named("archive").await;
    running.publish(70, 8).await;
    while peer.receiver.place().map(|place| place.since) != Some(3) {
        let next = soon("a frame", peer.client.next()).await;
        let Some(Ok(Message::Text(text))) = next else {
            panic!("{next:?}");
        };
        assert!(peer.receiver.hear(Kind::Text, text.as_bytes()).is_ok());
    }
    peer.acks().await;
    peer.says(&format!(r#"{{"type":"ack","position":"{}"}}"#, hello.from))
        .await;
    peer.says(r#"{"type":"ack","position":"of.another.epoch"}"#)
        .await;
    // What follows is answered after them.
    let ping = Message::Ping(b"?".to_vec().into());
    peer.client.send(ping).await.expect("sent");
    while !matches!(
        soon("a Pong", peer.client.next()).await,
        Some(Ok(Message::Pong(_)))
    ) {}
    let (_, hello) = running.named("archive").await;
    assert!(hello.from.ends_with(".21"), "{hello:?}");
}
