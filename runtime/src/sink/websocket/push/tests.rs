//! What a receiver is told, and what its acks and places mean; frames of several records among them.

use super::*;
use crate::journal::memory::{Memory, Retention};
use crate::journal::{Chunk, Frame};
use crate::sink::framing::BatchBounds;
use crate::sink::websocket::protocol::{Heard, Place, Receiver, Request, Wanted};

const NOW: Duration = Duration::ZERO;

/// A push of ten frames of three records each, and its receiver.
struct Bench {
    journal: Memory,
    push: Push,
    receiver: Receiver,
    confirmed: Position,
    sent: Position,
}

impl Bench {
    async fn new() -> Self {
        let journal = Memory::new(Retention {
            bytes_max: 1 << 20,
            age_max: None,
            history: true,
        });
        for _ in 0..10 {
            let chunk = Chunk {
                wire: b"\x81\x05a\nb\nc"[..].into(),
                frames: [Frame {
                    wire_end: 7,
                    payload_start: 2,
                    records_end: 3,
                }][..]
                    .into(),
                records: [(2, 3), (4, 5), (6, 7)][..].into(),
                ..Chunk::default()
            };
            journal.append(chunk, Vec::new()).await.unwrap();
        }
        let bounds = BatchBounds {
            records_max: 3,
            bytes_max: 100,
            wait: NOW,
        };
        let framing = Framing {
            carrier: Carrier::Text,
            batch: Batching::Ndjson(bounds),
            envelope: false,
            frame_bytes_max: 100,
        };
        Self {
            push: Push::new("s", journal.epoch(), &framing, Position(0)),
            journal,
            receiver: Receiver::new(Wanted::default(), None),
            confirmed: Position(0),
            sent: Position(0),
        }
    }

    /// Hands what the push says to the receiver.
    fn told(&mut self, out: &[u8]) {
        let mut rest = out;
        while let [_, length, after @ ..] = rest {
            let (start, bytes) = match length {
                126 => (4, usize::from(u16::from_be_bytes([after[0], after[1]]))),
                bytes => (2, usize::from(*bytes)),
            };
            let heard = self
                .receiver
                .hear(Kind::Binary, &rest[start..start + bytes]);
            heard.expect("a push says nothing wrong");
            rest = &rest[start + bytes..];
        }
    }

    /// The receiver connects and says what it says: its place, or what is given.
    fn connect(&mut self, says: Option<&str>) -> Result<Found, Wrong> {
        self.push.connected();
        let subscribe = self.receiver.subscribe().encode();
        let says = says.unwrap_or(&subscribe);
        let Said::Subscribe(subscribe) = self.push.hear(says.as_bytes())? else {
            panic!("{says} is no subscribe");
        };
        let mut out = Vec::new();
        let journal = &self.journal;
        let found = self
            .push
            .begin(NOW, journal, &subscribe, self.confirmed, &mut out)?;
        self.sent = found.0;
        self.confirmed = self.confirmed.max(found.0);
        self.told(&out);
        Ok(found)
    }

    /// So many whole frames go out.
    fn send(&mut self, frames: u64) {
        for _ in 0..frames {
            self.push.sent(1, 7);
            self.sent = self.sent.plus(3);
            assert_eq!(self.receiver.hear(Kind::Text, b"a\nb\nc"), Ok(Heard::Data));
        }
    }

    /// So many records of a frame go out alone, from its beginning on.
    fn send_apart(&mut self, records: u64) {
        let mut out = Vec::new();
        self.push.mark_apart(NOW, self.sent, &mut out);
        self.told(&out);
        for _ in 0..records {
            self.push.sent(1, 1);
            self.sent = self.sent.plus(1);
            assert_eq!(self.receiver.hear(Kind::Text, b"a"), Ok(Heard::Data));
        }
    }

    fn mark(&mut self) {
        let mut out = Vec::new();
        self.push.mark(NOW, self.sent, &mut out);
        self.told(&out);
    }

    /// What an ack of this place means: frames of the connection.
    fn ack(&mut self, place: Place) -> Result<Option<u64>, Wrong> {
        let ack = Request::Ack(place).encode();
        self.push.hear(ack.as_bytes())?;
        self.push.acked(self.sent)
    }

    fn place(&self) -> Place {
        self.receiver.place().cloned().expect("hello came")
    }
}

fn resumed(at: u64) -> Result<Found, Wrong> {
    Ok((Position(at), true, Some(0)))
}

#[tokio::test]
async fn i1_an_ack_confirms_the_frames_before_its_place_and_no_more() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.connect(None), resumed(0));
    let first = bench.place();
    bench.send(2);
    let place = bench.place();
    assert_eq!(place.since, 2);
    assert_eq!(bench.ack(place), Ok(Some(2)));
    bench.mark();
    bench.send(1);
    let place = bench.place();
    assert_eq!(place.since, 1);
    assert_eq!(bench.ack(place), Ok(Some(3)));
    assert_eq!(bench.push.named(), Position(6));
    // Behind an earlier one, and of another epoch.
    assert_eq!(bench.ack(first), Ok(None));
    let place = |position: &str, since| Place {
        position: position.to_owned(),
        since,
    };
    assert_eq!(bench.ack(place("1.9", 0)), Ok(None));
    // Beyond what was sent: by a position, and by frames.
    let mut beyond = bench.place();
    beyond.since += 1;
    assert_eq!(bench.ack(beyond), Err(Wrong::beyond()));
    let epoch = bench.journal.epoch();
    let beyond = place(&format!("{epoch:x}.10"), 0);
    assert_eq!(bench.ack(beyond), Err(Wrong::beyond()));
}

/// A receiver that crashes comes back with the place that it kept, which may be counted from a position
/// long before what it had acknowledged.
#[tokio::test]
async fn i1_a_place_counted_over_what_is_confirmed_is_found_again() {
    let mut bench = Bench::new().await;
    bench.connect(None).expect("hello");
    bench.send(4);
    assert_eq!(bench.ack(bench.place()), Ok(Some(4)));
    bench.confirmed = Position(12);
    bench.send(3);
    assert_eq!(bench.push.named(), Position(0), "it counts from there");
    assert_eq!(bench.connect(None), resumed(21));
}

/// The first record of a frame went out alone, and the receiver crashed: the rest of the frame comes.
#[tokio::test]
async fn i1_a_place_in_a_frame_that_was_taken_apart_is_found_again() {
    for alone in 0..3 {
        let mut bench = Bench::new().await;
        bench.connect(None).expect("hello");
        bench.send(1);
        bench.send_apart(alone);
        let place = bench.place();
        assert_eq!(bench.ack(place), Ok(Some(1 + alone)));
        assert_eq!(bench.connect(None), resumed(3 + alone));
    }
}

#[tokio::test]
async fn i2_behind_what_is_confirmed_nothing_comes_again_and_that_is_told() {
    let mut bench = Bench::new().await;
    bench.connect(None).expect("hello");
    bench.send(2);
    // It acknowledged, or a record went to the failover, and it comes back without.
    bench.confirmed = Position(8);
    assert_eq!(bench.connect(None), Ok((Position(8), false, Some(2))));
    let unknown = Ok((Position(8), false, None));
    let foreign = r#"{"type":"subscribe","from":"someone.else"}"#;
    assert_eq!(bench.connect(Some(foreign)), unknown);
    let epoch = bench.journal.epoch();
    let future = format!(r#"{{"type":"subscribe","from":"{epoch:x}.31"}}"#);
    assert_eq!(bench.connect(Some(&future)), unknown);
    for nothing in [
        r#"{"type":"subscribe"}"#,
        r#"{"type":"subscribe","from":"earliest"}"#,
    ] {
        assert_eq!(bench.connect(Some(nothing)), resumed(8), "{nothing}");
    }
}

#[tokio::test]
async fn what_a_push_does_not_do_is_refused() {
    let mut bench = Bench::new().await;
    for (says, told) in [
        (r#"{"type":"subscribe","name":"me"}"#, "`name` and `keys`"),
        (r#"{"type":"subscribe","keys":["a"]}"#, "`name` and `keys`"),
        (
            r#"{"type":"subscribe","from":"latest"}"#,
            "leaves nothing out",
        ),
        (r#"{"type":"subscribe","from":"-5"}"#, "leaves nothing out"),
        (r#"{"type":"ack","position":"a.1"}"#, "before `subscribe`"),
        (r#"{"type":"subscribed"}"#, "none of subscribe, ack"),
    ] {
        let wrong = bench.connect(Some(says)).expect_err("refused").to_string();
        assert!(wrong.contains(told), "{says}: {wrong}");
        assert!(wrong.len() <= 123, "it fits a Close: {wrong}");
    }
    bench.connect(None).expect("hello");
    let again = bench.push.hear(br#"{"type":"subscribe"}"#);
    assert!(again.is_err());
}

#[tokio::test]
async fn i4_marks_are_never_far_and_what_is_kept_of_them_is_bounded() {
    let mut bench = Bench::new().await;
    bench.connect(None).expect("hello");
    assert_eq!(bench.push.frames_max(), MARK_FRAMES_MAX);
    bench.push.sent(MARK_FRAMES_MAX - 1, 100);
    assert!(!bench.push.is_mark_due());
    assert_eq!(bench.push.frames_max(), 1);
    bench.push.sent(1, 100);
    assert!(bench.push.is_mark_due());
    bench.sent = Position(5000);
    bench.mark();
    assert!(!bench.push.is_mark_due());
    bench.push.sent(1, MARK_BYTES_MAX);
    assert!(bench.push.is_mark_due());
    for n in 1..1000 {
        bench.push.sent(1, 1);
        bench.sent = Position(5000 + n);
        bench.mark();
        let place = bench.place();
        bench.ack(place).expect("it was sent");
        assert_eq!(bench.push.given.len(), 1);
    }
}

#[tokio::test]
async fn a_sign_of_life_comes_when_nothing_else_does() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.push.heartbeat_at(), None, "not before hello");
    bench.connect(None).expect("hello");
    let mut out = Vec::new();
    let head = Position(30);
    bench.push.heartbeat(
        HEARTBEAT - Duration::from_millis(1),
        Position(0),
        head,
        &mut out,
    );
    assert!(out.is_empty());
    bench.push.heartbeat(HEARTBEAT, Position(0), head, &mut out);
    assert!(String::from_utf8_lossy(&out).contains("heartbeat"));
    assert_eq!(bench.push.heartbeat_at(), Some(HEARTBEAT * 2));
    bench.told(&out);
}
