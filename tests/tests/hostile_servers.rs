//! Servers that break every rule, before what dials out: a push, and a subscriber (I1, I4).
//!
//! A proxy says it in the name of a real server, right behind the handshake, on the first connection. The
//! server is told by a Close, the log tells it once, and the next connection brings everything.

use wirefall_tests::pushing::{all_delivered, memory_is_flat, push_fed, receive, received};
use wirefall_tests::raw::{frame, header};
use wirefall_tests::records::{all_there, lines};
use wirefall_tests::{Folder, Proxy, pipelines, wait_until, wirefall};

use self::Dials::{Push, PushV1, Subscriber};

const RECORDS: u64 = 2000;

const FIN_TEXT: u8 = 0x81;
const TEXT: u8 = 0x01;
const FIN_CONTINUATION: u8 = 0x80;
const CONTINUATION: u8 = 0x00;
const PING: u8 = 0x89;

/// Who meets the server.
#[derive(Clone, Copy, Debug)]
enum Dials {
    /// `url:`, confirmed by Pongs.
    Push,
    /// `url:` with `ack: wirefall.v1`.
    PushV1,
    /// `wirefall subscribe`.
    Subscriber,
}

/// What a server says, and the Close that it gets; 0 where it is borne.
struct Attack {
    name: &'static str,
    before: &'static [Dials],
    says: Vec<u8>,
    closed: u64,
}

fn attack(name: &'static str, before: &'static [Dials], closed: u64, says: Vec<u8>) -> Attack {
    Attack {
        name,
        before,
        says,
        closed,
    }
}

/// An unmasked frame, as servers send it.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [header(first, payload.len() as u64), payload.to_vec()].concat()
}

fn text(text: &str) -> Vec<u8> {
    unmasked(FIN_TEXT, text.as_bytes())
}

/// What breaks the rules of RFC 6455.
fn against_the_websocket() -> Vec<Attack> {
    const ALL: &[Dials] = &[Push, PushV1, Subscriber];
    vec![
        attack("garbage", ALL, 1002, b"\xff\xfe".repeat(10_000)),
        attack("a masked frame", ALL, 1002, frame(FIN_TEXT, b"hello")),
        attack(
            "a frame of 2^63 bytes",
            ALL,
            1009,
            header(FIN_TEXT, 1 << 63),
        ),
        // `subscribe` takes as much as any stream may be set to, so it is not asked to bear that.
        attack("fragments without end", &[Push, PushV1], 1009, {
            let more = unmasked(CONTINUATION, &[b'x'; 1 << 16]).repeat(600);
            [unmasked(TEXT, b"x"), more].concat()
        }),
        attack("text that is none", ALL, 1007, unmasked(FIN_TEXT, b"\xff")),
        attack("empty fragments", &[Push], 0, {
            let more = unmasked(CONTINUATION, b"").repeat(500_000);
            [unmasked(TEXT, b""), more, unmasked(FIN_CONTINUATION, b"")].concat()
        }),
        attack(
            "a million Pings",
            ALL,
            0,
            unmasked(PING, b"ping").repeat(1_000_000),
        ),
        attack(
            "a million messages",
            &[Push],
            0,
            text("hello").repeat(1_000_000),
        ),
    ]
}

/// What breaks the rules of `wirefall.v1`: a push is told, for its receiver keeps a place by it.
fn against_v1() -> Vec<Attack> {
    const V1: &[Dials] = &[PushV1];
    let subscribes = |member: String| text(&format!(r#"{{"type":"subscribe",{member}}}"#));
    vec![
        attack("no JSON", V1, 4400, text("subscribe")),
        attack("deep nesting", V1, 4400, text(&"[".repeat(60_000))),
        attack(
            "a huge number",
            V1,
            4400,
            subscribes(r#""since":1e999999999"#.to_owned()),
        ),
        attack(
            "a long number",
            V1,
            4400,
            subscribes(format!(r#""since":{}"#, "9".repeat(60_000))),
        ),
        attack("a member twice", V1, 4400, {
            subscribes(r#""from":"earliest","from":"earliest""#.to_owned())
        }),
        attack("a string of a megabyte", V1, 1009, {
            subscribes(format!(r#""name":"{}""#, "x".repeat(1 << 20)))
        }),
        attack(
            "ack before subscribe",
            V1,
            4400,
            text(r#"{"type":"ack","position":"a.1"}"#),
        ),
        // The receiver says it as well.
        attack(
            "subscribe twice",
            V1,
            4400,
            subscribes(r#""from":"earliest""#.to_owned()),
        ),
    ]
}

impl Attack {
    /// The server is told, or borne.
    fn wait_for_the_close(&self, proxy: &Proxy, dials: Dials) {
        let what = format!("{dials:?} closes with {} upon {}", self.closed, self.name);
        wait_until(&what, || {
            proxy.has_said_it() && proxy.closed() == self.closed
        });
    }

    /// What is told of a broken connection is told once.
    fn is_told_once(&self, stderr: &str, told: &str) {
        let times = stderr.lines().filter(|line| line.contains(told)).count();
        let expected = usize::from(self.closed > 0);
        assert_eq!(times, expected, "{}: {stderr}", self.name);
        assert!(stderr.len() < 10_000, "{}: {stderr}", self.name);
    }

    fn before_a_push(&self, dials: Dials) {
        let ack = match dials {
            PushV1 => "wirefall.v1",
            _ => "pong",
        };
        let folder = Folder::new();
        let (_receiver, address) = receive(&folder, &["--ack", ack]);
        let proxy = Proxy::start(address);
        proxy.put_into_its_mouth(self.says.clone());
        let mut run = push_fed(&folder, proxy.address(), &[&format!("ack: {ack}")]);
        self.wait_for_the_close(&proxy, dials);
        run.write(lines(0..RECORDS).as_bytes());
        run.close_stdin();
        let ended = all_delivered(run.wait(), RECORDS);
        assert_eq!(all_there(&received(&folder), RECORDS), 0, "{}", self.name);
        self.is_told_once(&ended.stderr, "lost: ");
    }

    fn before_a_subscriber(&self) {
        let folder = Folder::new();
        let pipeline = pipelines::publish(&folder, &["at_end: exit"]);
        let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
        let url = run.wait_for_line("stream  ws://");
        let (address, path) = url.split_once('/').expect("a path");
        let proxy = Proxy::start(address.parse().expect("an address"));
        proxy.put_into_its_mouth(self.says.clone());
        let url = format!("ws://{}/{path}", proxy.address());
        let out = folder.path("out.ndjson");
        let words = ["subscribe", &url, "--from", "earliest", "--out"].map(str::as_ref);
        let subscriber = wirefall(words.into_iter().chain([out.as_os_str()]));
        self.wait_for_the_close(&proxy, Subscriber);
        // Where it had to dial again, it is there before the stream is at its end.
        let dials = 1 + u64::from(self.closed > 0);
        wait_until("the next connection", || proxy.accepted() >= dials);
        run.write(lines(0..RECORDS).as_bytes());
        wait_until("every record", || received(&folder).len() as u64 >= RECORDS);
        run.close_stdin();
        let ended = subscriber.wait().expect(0);
        memory_is_flat(&ended);
        assert_eq!(all_there(&received(&folder), RECORDS), 0, "{}", self.name);
        self.is_told_once(&ended.stderr, "disconnected: ");
        run.wait().expect(0);
    }
}

#[test]
fn i1_i4_hostile_servers_are_told_and_lose_nothing() {
    for attack in against_the_websocket().iter().chain(&against_v1()) {
        for dials in attack.before {
            let began = std::time::Instant::now();
            match dials {
                Subscriber => attack.before_a_subscriber(),
                dials => attack.before_a_push(*dials),
            }
            eprintln!("{}, {dials:?}: {:.1?}", attack.name, began.elapsed());
        }
    }
}
