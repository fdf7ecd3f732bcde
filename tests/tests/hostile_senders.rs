//! Senders that break every rule, before `wirefall receive`, to which others push on (I1, I4).
//!
//! What is pushed arrives all the same, the memory stays flat, and the log tells once what happened.

use std::net::SocketAddr;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use wirefall_tests::hostile::Answer::{Alive, Closed, Held, Left, Status};
use wirefall_tests::hostile::Entry::{Plain, Tcp, V1};
use wirefall_tests::hostile::{
    Answer, Attack, FIN_TEXT, Others, RSS_KIB_MAX, Target, against_the_websocket, attack,
    before_the_request, endure, flood, once, says, silence,
};
use wirefall_tests::pushing::{all_delivered, push_fed, receive};
use wirefall_tests::raw::frame;
use wirefall_tests::records::{Tail, all_there, lines};
use wirefall_tests::{Folder, Process, Signal, wait_until};

/// Records that are pushed at a time.
const RECORDS: u64 = 20;
/// Within so long they are there, whatever else goes on.
const UNNOTICED: Duration = Duration::from_secs(5);
/// Longest message; the memory of this test has no room for the default.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Lines that the log may have, whatever was repeated how often: of each kind of news one.
const LOG_LINES_MAX: usize = 5;
/// The same of those who speak `wirefall.v1`, where a break of the stream is told ten times a minute.
const LOG_LINES_V1_MAX: usize = 15;
/// A whole binary message: beside text, what a sender says.
const FIN_BINARY: u8 = 0x82;
/// So many more connections than there are places.
const SILENT: usize = 2000;

/// A `hello` of another stream.
fn hello(member: &str, from: &str) -> Vec<u8> {
    let text = format!(
        r#"{{"type":"hello","stream":"other","epoch":"a","head":"{from}","from":"{from}","resumed":false,"lost":1,"data":"text","heartbeat_ms":100{member}}}"#
    );
    frame(FIN_BINARY, text.as_bytes())
}

/// What a sender may do wrong before it speaks of records, and what it gets for each.
fn against_v1(wrong: &'static [Answer]) -> Vec<Attack> {
    let (twice, huge, odd) = (
        hello(r#","from":"a.2""#, "a.1"),
        hello(r#","lost":1e999999999"#, "a.1"),
        hello("", &"a".repeat(65)),
    );
    let strange = hello("", "a/1");
    vec![
        attack("no JSON", V1, wrong, |_| once(says("hello"))),
        attack("deep nesting", V1, wrong, |_| {
            once(says(&"[".repeat(60_000)))
        }),
        attack("a member twice", V1, wrong, move |_| once(&*twice)),
        attack("a huge number", V1, wrong, move |_| once(&*huge)),
        attack("a long position", V1, wrong, move |_| once(&*odd)),
        attack("an odd position", V1, wrong, move |_| once(&*strange)),
        attack("a message of 65 KiB", V1, wrong, |_| {
            once(says(&format!(r#"{{"type":"{}"}}"#, "x".repeat(65 << 10))))
        }),
        attack("a record before hello", V1, wrong, |_| {
            once(says(r#"{"n":0}"#))
        }),
        attack("a mark before hello", V1, wrong, |_| {
            once(says(r#"{"type":"mark","position":"a.1"}"#))
        }),
    ]
}

/// What a receiver that has a stream's place bears.
fn against_a_place() -> Vec<Attack> {
    let foreign = hello("", "a.1");
    vec![
        attack(
            "another stream, again and again",
            V1,
            &[Closed(4400), Closed(4409)],
            move |_| once(&*foreign),
        )
        .by(300),
        attack("no hello", V1, &[Left], |_| once("")).by(100),
    ]
}

/// What only shows where nobody else pushes: a sender that was believed.
fn after_hello() -> Vec<Attack> {
    let hello = || once(hello("", "a.1"));
    let control = |text: &str| frame(FIN_BINARY, text.as_bytes());
    let gap = control(r#"{"type":"gap","from":"a.1","lost":1}"#);
    let mark = control(r#"{"type":"mark","position":"a/1"}"#);
    vec![
        attack("hello twice", V1, &[Closed(4400)], move |_| {
            Box::new(hello().chain(hello()))
        }),
        attack(
            "a mark that is no position",
            V1,
            &[Closed(4400)],
            move |_| Box::new(hello().chain(once(&*mark))),
        ),
        attack("a million gaps", V1, &[Alive], move |_| {
            Box::new(hello().chain(flood(1_000_000, &gap)))
        }),
        attack("a million unknown messages", V1, &[Alive], move |_| {
            let new = frame(FIN_BINARY, br#"{"type":"new"}"#);
            Box::new(hello().chain(flood(1_000_000, &new)))
        }),
    ]
}

/// What only a receiver of pushes has to bear.
fn against_the_receiver() -> Vec<Attack> {
    vec![
        attack(
            "frames of the whole bound, none whole",
            Plain,
            &[Held],
            |_| {
                let mut cut = frame(FIN_TEXT, &vec![b'x'; MESSAGE_BYTES_MAX]);
                cut.pop();
                once(cut)
            },
        )
        .by(8),
        attack("silence after the upgrade", Plain, &[Held], |_| once("")).by(SILENT),
        attack("gone before the handshake", Tcp, &[Left], |_| once("")).by(500),
        attack("a reset behind a message", Plain, &[Left], |_| {
            once(says("hello"))
        })
        .by(200),
        attack(
            "wirefall.v1, which is not spoken",
            Tcp,
            &[Status(101)],
            |_| {
                once(
                    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                  Sec-WebSocket-Protocol: wirefall.v1\r\n\r\n",
                )
            },
        ),
    ]
}

/// A push that goes on, and the receiver to which it goes.
struct Push {
    receiver: Process,
    run: Process,
    out: Tail,
    pushed: u64,
}

impl Push {
    fn start(folder: &Folder, receiver: Process, address: SocketAddr, sink: &[&str]) -> Self {
        Self {
            receiver,
            run: push_fed(folder, address, sink),
            out: Tail::of(&folder.path("out.ndjson")),
            pushed: 0,
        }
    }
}

impl Others for Push {
    fn go_on(&mut self) {
        let more = lines(self.pushed..self.pushed + RECORDS);
        assert!(self.run.write(more.as_bytes()), "standard input is read");
        self.pushed += RECORDS;
        let began = Instant::now();
        wait_until("what was pushed, at the receiver", || {
            self.out.look().last() == Some(&(self.pushed - 1))
        });
        let took = began.elapsed();
        assert!(took < UNNOTICED, "it took {took:?} to arrive");
    }

    fn attacked(&self) -> &Process {
        &self.receiver
    }
}

/// The log tells each kind of news once.
fn log_is_short(receiver: Process, told: &[&str], lines_max: usize) {
    receiver.signal(Signal::Terminate);
    let ended = receiver.wait().expect(0);
    let log: Vec<&str> = ended.stderr.lines().collect();
    for told in told {
        let times = log.iter().filter(|line| line.contains(told)).count();
        assert_eq!(times, 1, "{told}: {log:#?}");
    }
    assert!(log.len() <= lines_max, "{log:#?}");
    assert!(!ended.stderr.contains("panicked"), "{log:#?}");
}

fn target(address: SocketAddr, more: &str) -> Target {
    Target {
        address,
        path: "/".to_owned(),
        more: more.to_owned(),
    }
}

#[test]
fn i1_i4_hostile_senders_hurt_no_other() {
    let folder = Folder::new();
    let bound = MESSAGE_BYTES_MAX.to_string();
    let (receiver, address) = receive(&folder, &["--message-max", &bound]);
    let mut push = Push::start(&folder, receiver, address, &["ack: pong"]);
    push.go_on();
    let target = target(address, "");
    let mut held = Vec::new();
    endure(&silence(), &target, &mut held, &mut push);
    let attacks = [
        before_the_request(),
        against_the_websocket(MESSAGE_BYTES_MAX),
        against_the_receiver(),
    ];
    for attack in attacks.iter().flatten() {
        endure(from_ref(attack), &target, &mut held, &mut push);
    }
    drop(held);
    push.go_on();
    push.run.close_stdin();
    let ended = all_delivered(push.run.wait(), push.pushed);
    assert_eq!(ended.account_or_none("reconnects"), 0, "{}", ended.stderr);
    assert_eq!(all_there(push.out.look(), push.pushed), 0);
    log_is_short(
        push.receiver,
        &[
            "no WebSocket",
            "breaks the WebSocket protocol",
            "places for connections",
        ],
        LOG_LINES_MAX,
    );
}

/// Each stranger takes the place of the push, which comes back where it was.
#[test]
fn i1_i4_hostile_senders_of_v1_hurt_no_other() {
    let folder = Folder::new();
    let (receiver, address) = receive(&folder, &["--ack", "wirefall.v1"]);
    let mut push = Push::start(&folder, receiver, address, &["ack: wirefall.v1"]);
    push.go_on();
    let target = target(address, "");
    let mut held = Vec::new();
    // The push may come back before the stranger has said anything.
    let attacks = against_v1(&[Closed(4400), Closed(4409)]);
    for attack in attacks.iter().chain(&against_a_place()) {
        endure(from_ref(attack), &target, &mut held, &mut push);
    }
    push.go_on();
    push.run.close_stdin();
    let ended = push.run.wait();
    all_delivered(ended, push.pushed);
    let expected: Vec<u64> = (0..push.pushed).collect();
    assert!(push.out.look() == expected, "each once, in order");
    log_is_short(push.receiver, &[], LOG_LINES_V1_MAX);
}

/// Whoever connects is believed, so nobody else pushes here.
#[test]
fn i4_a_sender_that_was_believed_is_bounded_all_the_same() {
    let folder = Folder::new();
    let (receiver, address) = receive(&folder, &["--ack", "wirefall.v1"]);
    let target = target(address, "");
    for attack in against_v1(&[Closed(4400)]).iter().chain(&after_hello()) {
        target.suffer(attack);
        let peak_kib = receiver.peak_rss_kib();
        assert!(peak_kib < RSS_KIB_MAX, "{}: {peak_kib} KiB", attack.name);
    }
    log_is_short(receiver, &["breaks wirefall.v1"], LOG_LINES_V1_MAX);
}
