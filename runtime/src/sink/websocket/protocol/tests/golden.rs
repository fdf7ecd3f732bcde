//! Golden frames: every message both ways, byte for byte, as `tests/fixtures/protocol` keeps them for
//! peers in every language. Every later version must speak them (docs/compatibility.md).

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::super::*;
use crate::journal::Position;

/// What a receiver says.
const REQUESTS: &str = "wirefall.v1-requests.ndjson";
/// What a sender says.
const NOTICES: &str = "wirefall.v1-notices.ndjson";

/// The lines that are frozen, how many, and their digest. Where lines were added behind them, both
/// grow once these are promised as well.
const FROZEN: [(&str, usize, &str); 2] = [
    (
        REQUESTS,
        7,
        "9a22ac269d4f61b1b66e00be4666d30b307acc3b4045d650263fe586d4746d21",
    ),
    (
        NOTICES,
        9,
        "c4775eb128b7b30f6d7dcbbf034ef39301f14efb639952024ddc755aa7316ed9",
    ),
];

fn path(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/protocol");
    folder.join(file)
}

/// The messages of a file, each with what it says.
fn kept<T>(file: &str, said: Vec<T>) -> impl Iterator<Item = (String, T)> {
    let text = std::fs::read_to_string(path(file)).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), said.len(), "{file} has others than the test");
    lines.into_iter().zip(said)
}

#[test]
fn what_is_frozen_is_as_it_was() {
    for (file, lines, expected) in FROZEN {
        let text = std::fs::read_to_string(path(file)).unwrap();
        let frozen: String = text.split_inclusive('\n').take(lines).collect();
        let digest = Sha256::digest(frozen.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, expected, "{file}: lines are added, never changed");
    }
}

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
    let said = vec![
        subscribe(None, 0, None, None),
        subscribe(Some(From::Earliest), 0, None, None),
        subscribe(Some(From::Latest), 0, None, None),
        subscribe(Some(From::Newest(500)), 0, None, None),
        subscribe(Some(From::Position(position())), 3, None, None),
        subscribe(None, 0, Some("archive-1"), Some(keys(&["UA", "AA"]))),
        Request::Ack(Place {
            position: position(),
            since: 17,
        }),
    ];
    for (text, request) in kept(REQUESTS, said) {
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
    let said = vec![
        hello(true, Some(0), Kind::Text),
        hello(false, None, Kind::Binary),
        Notice::Mark(Mark {
            position: text("5f3a9c.81412"),
        }),
        gap(Some(10_589)),
        gap(None),
        Notice::Heartbeat(Heartbeat {
            head: text("5f3a9c.90000"),
        }),
        bye(Reason::End, None),
        bye(Reason::Restart, Some(1000)),
        bye(Reason::Behind, Some(0)),
    ];
    for (text, notice) in kept(NOTICES, said) {
        assert_eq!(Notice::parse(text.as_bytes()), Ok(notice.clone()), "{text}");
        assert_eq!(notice.encode(), text);
    }
}

/// Peers in other languages compare these numbers.
#[test]
fn close_codes_are_as_ever() {
    let codes = [close::END, close::RESTART, close::LATER];
    assert_eq!(codes, [1000, 1012, 1013]);
    assert_eq!([close::BEHIND, close::WRONG], [4008, 4400]);
    let refused = [close::UNKNOWN, close::FORBIDDEN, close::SILENT];
    assert_eq!(refused, [4401, 4403, 4408]);
    assert_eq!([close::TAKEN, close::TOO_MANY], [4409, 4429]);
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
