//! Golden frames: every message both ways, byte for byte. Every later version must speak them; a line
//! is added, never changed.

use std::time::Duration;

use super::super::*;
use crate::journal::Position;

#[test]
fn requests_are_read_and_written_as_ever() {
    let position = || "5f3a9c.81220".to_owned();
    let keys = |keys: &[&str]| Keys::new(keys.iter().map(|key| (*key).to_owned()));
    let subscribe = |from, since, name: Option<&str>, keys| {
        Request::Subscribe(Subscribe {
            from,
            since,
            name: name.map(str::to_owned),
            keys,
        })
    };
    for (text, request) in [
        (r#"{"type":"subscribe"}"#, subscribe(None, 0, None, None)),
        (
            r#"{"type":"subscribe","from":"earliest"}"#,
            subscribe(Some(From::Earliest), 0, None, None),
        ),
        (
            r#"{"type":"subscribe","from":"latest"}"#,
            subscribe(Some(From::Latest), 0, None, None),
        ),
        (
            r#"{"type":"subscribe","from":"-500"}"#,
            subscribe(Some(From::Newest(500)), 0, None, None),
        ),
        (
            r#"{"type":"subscribe","from":"5f3a9c.81220","since":3}"#,
            subscribe(Some(From::Position(position())), 3, None, None),
        ),
        (
            r#"{"type":"subscribe","name":"archive-1","keys":["AA","UA"]}"#,
            subscribe(None, 0, Some("archive-1"), Some(keys(&["UA", "AA"]))),
        ),
        (
            r#"{"type":"ack","position":"5f3a9c.81220","since":17}"#,
            Request::Ack(Place {
                position: position(),
                since: 17,
            }),
        ),
    ] {
        assert_eq!(
            Request::parse(text.as_bytes()),
            Ok(request.clone()),
            "{text}"
        );
        assert_eq!(request.encode(), text);
    }
}

#[test]
fn notices_are_read_and_written_as_ever() {
    let text = str::to_owned;
    let hello = |resumed, lost, data| {
        Notice::Hello(Hello {
            stream: text("flights"),
            epoch: text("5f3a9c"),
            head: text("5f3a9c.90000"),
            from: text("5f3a9c.81223"),
            resumed,
            lost,
            data,
            heartbeat_ms: 15_000,
        })
    };
    let bye = |reason, retry_after_ms| {
        Notice::Bye(Bye {
            reason,
            retry_after_ms,
        })
    };
    let gap = |lost| {
        Notice::Gap(Gap {
            from: text("5f3a9c.92001"),
            lost,
        })
    };
    for (text, notice) in [
        (
            r#"{"type":"hello","stream":"flights","epoch":"5f3a9c","head":"5f3a9c.90000","from":"5f3a9c.81223","resumed":true,"lost":0,"data":"text","heartbeat_ms":15000}"#,
            hello(true, Some(0), Kind::Text),
        ),
        (
            r#"{"type":"hello","stream":"flights","epoch":"5f3a9c","head":"5f3a9c.90000","from":"5f3a9c.81223","resumed":false,"lost":null,"data":"binary","heartbeat_ms":15000}"#,
            hello(false, None, Kind::Binary),
        ),
        (
            r#"{"type":"mark","position":"5f3a9c.81412"}"#,
            Notice::Mark(Mark {
                position: text("5f3a9c.81412"),
            }),
        ),
        (
            r#"{"type":"gap","from":"5f3a9c.92001","lost":10589}"#,
            gap(Some(10_589)),
        ),
        (
            r#"{"type":"gap","from":"5f3a9c.92001","lost":null}"#,
            gap(None),
        ),
        (
            r#"{"type":"heartbeat","head":"5f3a9c.90000"}"#,
            Notice::Heartbeat(Heartbeat {
                head: text("5f3a9c.90000"),
            }),
        ),
        (r#"{"type":"bye","reason":"end"}"#, bye(Reason::End, None)),
        (
            r#"{"type":"bye","reason":"restart","retry_after_ms":1000}"#,
            bye(Reason::Restart, Some(1000)),
        ),
        (
            r#"{"type":"bye","reason":"behind","retry_after_ms":0}"#,
            bye(Reason::Behind, Some(0)),
        ),
    ] {
        assert_eq!(Notice::parse(text.as_bytes()), Ok(notice.clone()), "{text}");
        assert_eq!(notice.encode(), text);
    }
}

/// What later versions may add is passed over.
#[test]
fn what_is_not_known_is_ignored_where_that_is_safe() {
    let bye = Notice::parse(br#"{"type":"bye","reason":"tired","since":1}"#);
    let unknown = Bye {
        reason: Reason::Unknown,
        retry_after_ms: None,
    };
    assert_eq!(bye, Ok(Notice::Bye(unknown)));
    assert_eq!(
        Notice::parse(br#"{"type":"tick","n":1}"#),
        Ok(Notice::Unknown)
    );
    let request = Request::parse(br#"{"type":"subscribe","colour":"red"}"#);
    assert_eq!(request, Ok(Request::Subscribe(Subscribe::default())));
}

/// The frames that the sender writes: in the kind that its records do not have.
#[test]
fn control_frames_are_written_as_ever() {
    for (data, opcode) in [(Kind::Text, 0x82), (Kind::Binary, 0x81)] {
        let mut sender = Sender::new(0x5f_3a9c, data, Duration::from_secs(15));
        let mut out = Vec::new();
        sender.mark(Position(81_412), &mut out);
        assert_eq!(out[..2], [opcode, 41]);
        let mark = Notice::Mark(Mark {
            position: "5f3a9c.81412".to_owned(),
        });
        assert_eq!(out[2..], *mark.encode().as_bytes());
        out.clear();
        sender.mark(Position(u64::MAX), &mut out);
        assert_eq!(out.len(), 2 + usize::from(out[1]));
        out.clear();
        sender.mark_apart(Duration::ZERO, Position(81_412), &mut out);
        assert_eq!(out[..2], [opcode, 43]);
        assert_eq!(out[2..], *br#"{"type":"mark","position":"5f3a9c.81412.a"}"#);
        out.clear();
        sender.bye(Duration::ZERO, Reason::Restart, &mut out);
        assert_eq!(out[0], opcode);
        let bye = Notice::parse(&out[2..]).expect("a notice");
        assert!(matches!(bye, Notice::Bye(_)));
    }
}
