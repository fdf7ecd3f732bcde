//! The protocol: what is on the wire, what is refused, and that a place loses and repeats nothing.

mod golden;
mod places;

use std::time::Duration;

use super::*;
use crate::journal::Position;

fn facts(tail: u64, head: u64) -> Facts {
    Facts {
        epoch: 0xa,
        tail: Position(tail),
        head: Position(head),
        frame_is_record: true,
    }
}

fn at(from: u64, resumed: bool, lost: Option<u64>) -> Start {
    Start::At {
        from: Position(from),
        resumed,
        lost,
    }
}

fn subscribe(text: &str) -> Subscribe {
    match Request::parse(text.as_bytes()) {
        Ok(Request::Subscribe(subscribe)) => subscribe,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn i2_hello_starts_where_it_was_asked_for_or_tells_what_is_missing() {
    let kept = facts(100, 200);
    for (asked, remembered, start) in [
        (r#"{"type":"subscribe"}"#, None, at(200, true, Some(0))),
        (r#"{"type":"subscribe"}"#, Some(150), at(150, true, Some(0))),
        (
            r#"{"type":"subscribe"}"#,
            Some(40),
            at(100, false, Some(60)),
        ),
        (
            r#"{"type":"subscribe","from":"earliest"}"#,
            Some(150),
            at(100, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"latest"}"#,
            Some(150),
            at(200, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"-1"}"#,
            None,
            at(199, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"-100"}"#,
            None,
            at(100, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"-999"}"#,
            None,
            at(100, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"a.150"}"#,
            None,
            at(150, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"a.100"}"#,
            None,
            at(100, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"a.200"}"#,
            None,
            at(200, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"a.99"}"#,
            None,
            at(100, false, Some(1)),
        ),
        (
            r#"{"type":"subscribe","from":"a.201"}"#,
            None,
            at(100, false, None),
        ),
        (
            r#"{"type":"subscribe","from":"b.150"}"#,
            None,
            at(100, false, None),
        ),
        (
            r#"{"type":"subscribe","from":"whatever"}"#,
            None,
            at(100, false, None),
        ),
        // The position is gone, and the place that was reached from it is not, or by less.
        (
            r#"{"type":"subscribe","from":"a.90","since":30}"#,
            None,
            at(120, true, Some(0)),
        ),
        (
            r#"{"type":"subscribe","from":"a.90","since":4}"#,
            None,
            at(100, false, Some(6)),
        ),
        (
            r#"{"type":"subscribe","from":"a.90","since":111}"#,
            None,
            at(100, false, None),
        ),
        (
            r#"{"type":"subscribe","from":"a.90","keys":["k"]}"#,
            None,
            at(100, false, None),
        ),
    ] {
        let remembered = remembered.map(Position);
        assert_eq!(
            Start::of(&subscribe(asked), remembered, kept),
            start,
            "{asked}"
        );
    }
    let behind = Start::Behind(Steps {
        position: Position(150),
        apart: false,
        since: 7,
    });
    let asked = subscribe(r#"{"type":"subscribe","from":"a.150","since":7}"#);
    assert_eq!(Start::of(&asked, None, kept), behind);
    // Frames of several records cannot be counted once they are gone.
    let of_several = Facts {
        frame_is_record: false,
        ..kept
    };
    let asked = subscribe(r#"{"type":"subscribe","from":"a.90","since":4}"#);
    assert_eq!(Start::of(&asked, None, of_several), at(100, false, None));
}

#[test]
fn i4_a_request_that_is_wrong_or_beyond_a_bound_is_told_why() {
    let many = |count: usize| vec!["k"; count];
    let long = "k".repeat(257);
    for (text, why) in [
        ("", "not a control message"),
        (
            r#"["subscribe","earliest",null,null,null,null]"#,
            "no JSON object",
        ),
        (r#"{"from":"latest"}"#, "missing field `type`"),
        (r#"{"type":"subscrib"}"#, "type `subscrib` is none of"),
        (r#"{"type":7}"#, "not a control message"),
        (r#"{"type":"subscribe","from":7}"#, "expected a string"),
        (r#"{"type":"subscribe","from":""}"#, "`from` is a position"),
        (r#"{"type":"subscribe","from":"-0"}"#, "1 at least"),
        (r#"{"type":"subscribe","from":"-+1"}"#, "1 at least"),
        (r#"{"type":"subscribe","from":"-1O"}"#, "1 at least"),
        (
            r#"{"type":"subscribe","from":"a b"}"#,
            "`from` is a position",
        ),
        (r#"{"type":"subscribe","since":1}"#, "goes with a position"),
        (
            r#"{"type":"subscribe","from":"latest","since":1}"#,
            "goes with a position",
        ),
        (
            r#"{"type":"subscribe","from":"a.1","since":1000001}"#,
            "0 to 1000000",
        ),
        (
            r#"{"type":"subscribe","from":"a.1","since":-1}"#,
            "not a control message",
        ),
        (
            r#"{"type":"subscribe","from":"a.1","since":1.5}"#,
            "not a control message",
        ),
        (r#"{"type":"subscribe","name":""}"#, "`name` is"),
        (r#"{"type":"subscribe","name":"a/b"}"#, "`name` is"),
        (r#"{"type":"subscribe","keys":[]}"#, "1 to 1000 keys"),
        (r#"{"type":"subscribe","keys":[""]}"#, "1 to 256 bytes"),
        (r#"{"type":"ack"}"#, "needs a `position`"),
        (r#"{"type":"ack","position":"é"}"#, "needs a `position`"),
        (&"[".repeat(60_000), "not a control message"),
        (
            &format!(r#"{{"type":"ack","x":{}"#, "[".repeat(60_000)),
            "EOF",
        ),
        (&" ".repeat(65_537), "longer than 64 KiB"),
        (
            &serde_json::json!({"type": "subscribe", "keys": many(1001)}).to_string(),
            "1 to 1000",
        ),
        (
            &serde_json::json!({"type": "subscribe", "keys": [long]}).to_string(),
            "1 to 256",
        ),
    ] {
        let wrong = Request::parse(text.as_bytes()).expect_err(text).to_string();
        assert!(wrong.contains(why), "{text:.80}: {wrong}");
    }
    let most = serde_json::json!({"type": "subscribe", "keys": many(1000)}).to_string();
    assert!(Request::parse(most.as_bytes()).is_ok());
}

#[test]
fn i4_whatever_bytes_come_are_a_message_or_an_error() {
    let seeds = [
        "{\"type\":\"subscribe\",\"from\":\"a.1\",\"since\":3,\"keys\":[\"k\"]}",
        "{\"type\":\"ack\",\"position\":\"a.1\"}",
        "{\"type\":\"hello\",\"stream\":\"s\",\"epoch\":\"a\",\"head\":\"a.1\",\"from\":\"a.1\",\"resumed\":true,\"lost\":0,\"data\":\"text\",\"heartbeat_ms\":1}",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut understood = 0;
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..random.usize(0..4) {
            let place = random.usize(0..bytes.len());
            match random.u8(0..3) {
                0 => bytes[place] = random.u8(..),
                1 => drop(bytes.remove(place)),
                _ => bytes.insert(place, random.u8(..)),
            }
        }
        if let Ok(request) = Request::parse(&bytes) {
            understood += 1;
            assert_eq!(Request::parse(request.encode().as_bytes()), Ok(request));
        }
        let _ = Notice::parse(&bytes);
        let mut receiver = Receiver::new(Wanted::default(), None);
        receiver.subscribe();
        let _ = receiver.hear(Kind::Binary, &bytes);
        let _ = receiver.hear(Kind::Text, &bytes);
    }
    assert!(understood > 1000, "{understood}");
}

#[test]
fn a_receiver_takes_nothing_before_hello_and_no_record_for_control() {
    let hello = br#"{"type":"hello","stream":"s","epoch":"a","head":"a.9","from":"a.1","resumed":true,"lost":0,"data":"text","heartbeat_ms":100}"#;
    let new = || {
        let mut receiver = Receiver::new(Wanted::default(), None);
        receiver.subscribe();
        receiver
    };
    let wrong = |kind, payload: &[u8]| new().hear(kind, payload).expect_err("refused").to_string();
    assert!(wrong(Kind::Text, b"{\"n\":1}").contains("not a control message"));
    let array = br#"["mark",{"position":"a.1"}]"#;
    assert!(wrong(Kind::Binary, array).contains("no JSON object"));
    assert!(wrong(Kind::Binary, br#"{"type":"mark","position":"a.1"}"#).contains("not `hello`"));
    assert!(wrong(Kind::Text, hello).contains("kind of frame"));

    let mut receiver = new();
    assert!(matches!(
        receiver.hear(Kind::Binary, hello),
        Ok(Heard::Hello(_))
    ));
    assert_eq!(receiver.silence_max(), Some(Duration::from_millis(200)));
    // A record that looks like a mark is a record.
    let mark = br#"{"type":"mark","position":"a.5"}"#;
    assert_eq!(receiver.hear(Kind::Text, mark), Ok(Heard::Data));
    let place = |position: &str, since| Place {
        position: position.to_owned(),
        since,
    };
    assert_eq!(receiver.place(), Some(&place("a.1", 1)));
    assert_eq!(receiver.hear(Kind::Binary, mark), Ok(Heard::Mark));
    assert_eq!(receiver.place(), Some(&place("a.5", 0)));
    let gap = br#"{"type":"gap","from":"a.7","lost":2}"#;
    assert_eq!(receiver.hear(Kind::Binary, gap), Ok(Heard::Gap(Some(2))));
    assert_eq!(receiver.place(), Some(&place("a.7", 0)));
    let later = br#"{"type":"of a later version","x":[1]}"#;
    assert_eq!(receiver.hear(Kind::Binary, later), Ok(Heard::Life));
    assert!(receiver.hear(Kind::Binary, hello).is_err());
    // It comes back at its place, whatever it wanted first.
    assert_eq!(
        receiver.subscribe().encode(),
        r#"{"type":"subscribe","from":"a.7"}"#
    );
}

#[test]
fn a_mark_is_due_before_a_heartbeat() {
    let mut sender = Sender::new(0xa, Kind::Text, Duration::from_secs(15));
    let mut out = Vec::new();
    let second = Duration::from_secs(1);
    sender.hello(
        second,
        "s",
        (Position(5), true, Some(0)),
        Position(5),
        &mut out,
    );
    assert_eq!(sender.heartbeat_at(), 16 * second);
    let mut said = |now, sent| {
        out.clear();
        sender.heartbeat(now, Position(sent), Position(90), &mut out);
        (
            out[0],
            String::from_utf8_lossy(&out[2..]).into_owned(),
            sender.heartbeat_at(),
        )
    };
    let heartbeat = r#"{"type":"heartbeat","head":"a.90"}"#.to_owned();
    assert_eq!(said(16 * second, 5), (0x82, heartbeat, 31 * second));
    let mark = r#"{"type":"mark","position":"a.70"}"#.to_owned();
    assert_eq!(said(31 * second, 70), (0x82, mark, 46 * second));
}

#[test]
fn an_ack_of_another_epoch_means_nothing() {
    let mut sender = Sender::new(0xa, Kind::Text, Duration::from_secs(1));
    let start = (Position(0), true, Some(0));
    sender.hello(Duration::ZERO, "s", start, Position(9), &mut Vec::new());
    let mut acked = |position: &str, since| {
        let position = position.to_owned();
        let ack = Request::Ack(Place { position, since }).encode();
        assert_eq!(sender.hear(ack.as_bytes()), Ok(Said::Ack));
        sender.take_ack()
    };
    assert_eq!(acked("b.7", 0), None);
    let steps = Steps {
        position: Position(7),
        apart: false,
        since: 3,
    };
    assert_eq!(acked("a.7", 3), Some(steps));
}
