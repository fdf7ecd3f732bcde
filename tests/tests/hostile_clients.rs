//! Clients that break every rule, one after the other, before a stream that others read on (I4, I7).
//!
//! One table says what each sends and what it is to get; one function runs it. Whoever reads notices
//! nothing, the memory stays flat, and the log tells once what happened.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wirefall_tests::peers::{Language, subscriber};
use wirefall_tests::raw::{Heard, Raw, frame, header};
use wirefall_tests::records::lines;
use wirefall_tests::{Folder, Process, numbers, pipelines, wait_until, wirefall};

use self::Answer::{Alive, Closed, Ended, Held, Left, Nothing, Status};
use self::Entry::{Plain, Subscribed, Tcp, V1};

/// What nobody may find in a log. Not one that could come about by chance.
const WRONG: &str = "wf_wrongwrongwrongwrongwrongwrongwrongwrongwro";
/// Resident memory that is never passed, in KiB. Some 40 MiB are seen.
const RSS_KIB_MAX: u64 = 64 * 1024;
/// Lines that the log may have in the end, whatever was repeated how often: the account, and each kind of
/// news once, or twice where a minute has passed.
const LOG_LINES_MAX: usize = 10;
/// Within so long whoever reads has what is published, whatever else goes on.
const UNNOTICED: Duration = Duration::from_secs(5);
/// Records that are published at a time.
const RECORDS: u64 = 20;

const FIN_TEXT: u8 = 0x81;
const TEXT: u8 = 0x01;
const FIN_CONTINUATION: u8 = 0x80;
const CONTINUATION: u8 = 0x00;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
/// What the last Ping of who is to be alive says.
const ARE_YOU_THERE: &[u8] = b"are you there";

/// How far an attacker keeps the rules.
#[derive(Clone, Copy)]
enum Entry {
    /// It connects.
    Tcp,
    /// It is let in without a subprotocol.
    Plain,
    /// It is let in, and speaks `wirefall.v1`.
    V1,
    /// It has subscribed as it should.
    Subscribed,
}

/// What it gets: one of those that are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// An answer of HTTP.
    Status(u16),
    /// A Close.
    Closed(u16),
    /// The end of the connection.
    Ended,
    /// It is served on: a last Ping is answered.
    Alive,
    /// It stays to the end of the test, reads a byte a second, and gets whatever it gets.
    Held,
    /// It leaves at once, and gets nothing.
    Left,
    /// Nothing, for very long. Never right.
    Nothing,
}

/// What is sent, piece by piece; the place that `hello` told is given.
type Sends = fn(&str) -> Box<dyn Iterator<Item = Vec<u8>>>;

struct Attack {
    name: &'static str,
    entry: Entry,
    /// Connections that do it, all at a time.
    connections: usize,
    sends: Sends,
    answers: &'static [Answer],
}

fn attack(name: &'static str, entry: Entry, answers: &'static [Answer], sends: Sends) -> Attack {
    Attack {
        name,
        entry,
        connections: 1,
        sends,
        answers,
    }
}

fn once(bytes: impl Into<Vec<u8>>) -> Box<dyn Iterator<Item = Vec<u8>>> {
    Box::new(std::iter::once(bytes.into()))
}

/// So many times the same, in pieces of some hundred.
fn flood(times: usize, bytes: &[u8]) -> Box<dyn Iterator<Item = Vec<u8>>> {
    const PIECE: usize = 500;
    Box::new(std::iter::repeat_n(bytes.repeat(PIECE), times / PIECE))
}

fn says(text: &str) -> Vec<u8> {
    frame(FIN_TEXT, text.as_bytes())
}

fn subscribes(member: &str) -> Vec<u8> {
    says(&format!(r#"{{"type":"subscribe",{member}}}"#))
}

fn acks(position: &str, since: u32) -> Vec<u8> {
    says(&format!(
        r#"{{"type":"ack","position":"{position}","since":{since}}}"#
    ))
}

/// What is said before there is a WebSocket.
fn before_the_upgrade() -> Vec<Attack> {
    vec![
        attack(
            "garbage instead of a request",
            Tcp,
            &[Status(400), Ended],
            |_| {
                once(
                    (0..4096_u32)
                        .map(|n| ((n * 7919) >> 3) as u8)
                        .collect::<Vec<_>>(),
                )
            },
        ),
        attack("the hello of TLS", Tcp, &[Status(400), Ended], |_| {
            once(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(40))
        }),
        attack(
            "a head without end",
            Tcp,
            &[Status(431), Status(400), Ended],
            |_| {
                let endless = (0..100_000).map(|n| format!("X-{n}: {n}\r\n").into_bytes());
                Box::new(once("GET / HTTP/1.1\r\n").chain(endless))
            },
        ),
        attack(
            "a long line",
            Tcp,
            &[Status(414), Status(431), Status(400), Ended],
            |_| Box::new(once("GET /").chain(flood(1 << 20, b"x"))),
        ),
        attack("half a request", Tcp, &[Status(408), Ended], |_| {
            once("GET / HT")
        }),
        attack("nothing at all", Tcp, &[Status(408), Ended], |_| once("")),
        Attack {
            connections: silent_connections(),
            ..attack(
                "silence in 10,000 connections",
                Tcp,
                &[Status(408), Ended],
                |_| once(""),
            )
        },
        Attack {
            connections: 2000,
            ..attack(
                "tickets for wrong credentials",
                Tcp,
                &[Status(401), Status(429)],
                |_| {
                    once(format!(
                        "POST /v1/streams/test/tickets HTTP/1.1\r\nHost: localhost\r\n\
                     Authorization: Bearer {WRONG}\r\n\r\n"
                    ))
                },
            )
        },
    ]
}

/// What breaks the rules of RFC 6455.
fn against_the_websocket() -> Vec<Attack> {
    vec![
        attack("garbage after the upgrade", Plain, &[Closed(1002)], |_| {
            flood(1 << 20, b"\xff\xfe")
        }),
        attack("HTTP after the upgrade", Plain, &[Closed(1002)], |_| {
            flood(1000, b"GET / HTTP/1.1\r\n\r\n")
        }),
        attack("an unmasked frame", Plain, &[Closed(1002)], |_| {
            Box::new(once(header(FIN_TEXT, 5)).chain(once("hello")))
        }),
        attack(
            "a frame of 2^63 bytes",
            Plain,
            &[Closed(1009), Closed(1002)],
            |_| {
                let mut frame = header(FIN_TEXT, 1 << 63);
                frame[1] |= 0x80;
                Box::new(once(frame).chain(flood(1 << 20, b"x")))
            },
        ),
        attack("a message beyond the bound", Plain, &[Closed(1009)], |_| {
            once(frame(FIN_TEXT, &[b'x'; 17 * 1024]))
        }),
        attack("fragments without end", Plain, &[Closed(1009)], |_| {
            let more = flood(100_000, &frame(CONTINUATION, &[b'x'; 1000]));
            Box::new(once(frame(TEXT, b"x")).chain(more))
        }),
        attack("empty fragments without end", Plain, &[Alive], |_| {
            let more = flood(500_000, &frame(CONTINUATION, b""));
            let end = once(frame(FIN_CONTINUATION, b""));
            Box::new(once(frame(TEXT, b"")).chain(more).chain(end))
        }),
        attack("text that is none", Plain, &[Closed(1007)], |_| {
            once(frame(FIN_TEXT, b"\xff"))
        }),
        attack("a million Pings", Plain, &[Alive], |_| {
            flood(1_000_000, &frame(PING, b"ping"))
        }),
        attack("a million Pings and nothing read", Plain, &[Held], |_| {
            flood(1_000_000, &frame(PING, b"ping"))
        }),
        attack("a million messages", Plain, &[Alive], |_| {
            flood(1_000_000, &says("hello"))
        }),
        attack("a Close of one byte", Plain, &[Closed(1002)], |_| {
            once(frame(CLOSE, b"\x03"))
        }),
        Attack {
            connections: 20,
            ..attack("a byte a second", Plain, &[Held], |_| once(""))
        },
    ]
}

/// What breaks the rules of `wirefall.v1`.
fn against_v1() -> Vec<Attack> {
    vec![
        attack("no subscribe", V1, &[Closed(4408)], |_| once("")),
        attack("no JSON", V1, &[Closed(4400)], |_| once(says("subscribe"))),
        attack("deep nesting", V1, &[Closed(4400)], |_| {
            once(says(&"[".repeat(60_000)))
        }),
        attack("deep nesting in a member", V1, &[Closed(4400)], |_| {
            once(subscribes(&format!(r#""from":{}"#, "[".repeat(60_000))))
        }),
        attack("a huge number", V1, &[Closed(4400)], |_| {
            once(subscribes(r#""since":1e999999999"#))
        }),
        attack("a long number", V1, &[Closed(4400)], |_| {
            once(subscribes(&format!(r#""since":{}"#, "9".repeat(60_000))))
        }),
        attack("a member twice", V1, &[Closed(4400)], |_| {
            once(subscribes(r#""from":"latest","from":"earliest""#))
        }),
        attack("a string of a megabyte", V1, &[Closed(1009)], |_| {
            once(subscribes(&format!(r#""name":"{}""#, "x".repeat(1 << 20))))
        }),
        attack("a million keys", V1, &[Closed(1009)], |_| {
            once(subscribes(&format!(
                r#""keys":["a"{}]"#,
                r#","a""#.repeat(1_000_000)
            )))
        }),
        attack("a thousand and one keys", V1, &[Closed(4400)], |_| {
            once(subscribes(&format!(
                r#""keys":["a"{}]"#,
                r#","a""#.repeat(1000)
            )))
        }),
        attack("ack before subscribe", V1, &[Closed(4400)], |_| {
            once(acks("a.1", 0))
        }),
        attack("subscribe twice", Subscribed, &[Closed(4400)], |_| {
            once(subscribes(r#""from":"latest""#))
        }),
        attack(
            "an ack beyond what was sent",
            Subscribed,
            &[Closed(4400)],
            |position| once(acks(position, 1_000_000)),
        ),
        attack("a million acks", Subscribed, &[Alive], |position| {
            flood(1_000_000, &acks(position, 0))
        }),
        Attack {
            connections: 200,
            ..attack("no Close", Subscribed, &[Left], |_| once(""))
        },
    ]
}

/// 10,000, or as many as this process may open.
fn silent_connections() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls are given a valid pointer to a limit that outlives them.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    let open = 10_000.min(limit.rlim_cur.saturating_sub(500));
    eprintln!("{open} silent connections");
    usize::try_from(open).expect("some thousands")
}

/// Where the attackers go, and what lets them in.
struct Target {
    address: SocketAddr,
    path: String,
    authorization: String,
}

impl Target {
    fn enter(&self, entry: Entry) -> (Raw, String) {
        let subprotocol = match entry {
            Tcp => return (Raw::dial(self.address), String::new()),
            Plain => "",
            V1 | Subscribed => "Sec-WebSocket-Protocol: wirefall.v1\r\n",
        };
        let more = format!("{}{subprotocol}", self.authorization);
        let mut raw = Raw::upgrade(self.address, &self.path, &more);
        if !matches!(entry, Subscribed) {
            return (raw, String::new());
        }
        raw.send(&subscribes(r#""from":"latest""#)).expect("sent");
        let Heard::Frame(_, hello) = raw.hear() else {
            panic!("no hello");
        };
        let hello: serde_json::Value = serde_json::from_slice(&hello).expect("a hello");
        (raw, hello["from"].as_str().expect("a position").to_owned())
    }

    /// Does it; what is held open is returned.
    fn suffer(&self, attack: &Attack) -> Vec<Raw> {
        let connect = |_| {
            let (mut raw, position) = self.enter(attack.entry);
            let asks = attack.answers == [Alive];
            // While it sends it reads, unless it is not to: nothing that comes back holds it up.
            match attack.connections == 1 && attack.answers != [Held] {
                true => {
                    let mut writer = raw.writer();
                    let sends = attack.sends;
                    std::thread::spawn(move || send(&mut writer, sends(&position), asks));
                }
                false => send(&mut raw, (attack.sends)(&position), asks),
            }
            raw
        };
        let mut open: Vec<Raw> = (0..attack.connections).map(connect).collect();
        match attack.answers {
            [Held] => return open,
            [Left] => return Vec::new(),
            _ => (),
        }
        for raw in &mut open {
            let answer = answer(raw, attack.entry);
            let name = attack.name;
            assert!(attack.answers.contains(&answer), "{name}: {answer:?}");
        }
        Vec::new()
    }
}

/// Sends it, and at the end a Ping where one `asks` to be answered.
fn send(raw: &mut Raw, mut pieces: Box<dyn Iterator<Item = Vec<u8>>>, asks: bool) {
    // Where the other side has gone there is an answer.
    let sent = pieces.try_for_each(|piece| raw.send(&piece));
    if sent.is_ok() && asks {
        let _ = raw.send(&frame(PING, ARE_YOU_THERE));
    }
}

/// What comes in the end.
fn answer(raw: &mut Raw, entry: Entry) -> Answer {
    if matches!(entry, Tcp) {
        return match raw.status() {
            Ok(status) => Status(status),
            Err(Heard::Nothing) => Nothing,
            Err(_) => Ended,
        };
    }
    loop {
        match raw.hear() {
            Heard::Frame(0x8, close) => {
                let code = close
                    .first_chunk()
                    .map_or(0, |code| u16::from_be_bytes(*code));
                // It ends at once, and not by a reset, with which others may never read why.
                assert!(
                    code >= 4000 || raw.hear() == Heard::End,
                    "no end after {code}"
                );
                return Closed(code);
            }
            Heard::Frame(0xa, pong) if pong == ARE_YOU_THERE => return Alive,
            Heard::Frame(..) => (),
            Heard::End | Heard::Reset => return Ended,
            Heard::Nothing => return Nothing,
        }
    }
}

/// Those who read, and what they are to have.
struct Readers {
    run: Process,
    readers: Vec<Process>,
    published: u64,
    bytes: usize,
    /// The longest that anything took to reach all of them.
    slowest: Duration,
}

impl Readers {
    /// Publishes some, and waits until all have them.
    fn publish(&mut self) {
        let more = lines(self.published..self.published + RECORDS);
        assert!(self.run.write(more.as_bytes()), "standard input is read");
        self.published += RECORDS;
        self.bytes += more.len();
        let began = Instant::now();
        wait_until("what was published, at all who read", || {
            self.readers
                .iter()
                .all(|reader| reader.stdout_bytes() >= self.bytes)
        });
        let took = began.elapsed();
        assert!(took < UNNOTICED, "it took {took:?} to reach all who read");
        self.slowest = self.slowest.max(took);
    }

    /// Goes on while an attack does, which costs no memory.
    fn read_through(&mut self, attack: &Attack, target: &Target, held: &mut Vec<Raw>) {
        let began = Instant::now();
        let more = std::thread::scope(|scope| {
            let attacker = scope.spawn(|| target.suffer(attack));
            let mut sips = 0;
            while !attacker.is_finished() {
                self.publish();
                if began.elapsed().as_secs() > sips {
                    sips += 1;
                    held.iter_mut().for_each(Raw::sip);
                }
            }
            attacker.join()
        });
        held.extend(more.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let (rss_kib, peak_kib) = (self.run.rss_kib(), self.run.peak_rss_kib());
        eprintln!(
            "{}: {:.1?}, {rss_kib} KiB resident (peak {peak_kib})",
            attack.name,
            began.elapsed()
        );
        assert!(peak_kib < RSS_KIB_MAX, "{}: {peak_kib} KiB", attack.name);
    }

    /// The stream ends, and all have had all of it, in order. The log tells what happened, and no secret.
    fn have_everything(mut self, secret: &str) {
        self.run.close_stdin();
        for reader in self.readers {
            let ended = reader.wait().expect(0);
            assert!(numbers(&ended.stdout).into_iter().eq(0..self.published));
            assert!(ended.stderr.contains("closed 1000"), "{}", ended.stderr);
        }
        let ended = self.run.wait().expect(0);
        assert_eq!(ended.account("published"), self.published);
        for hidden in [secret, WRONG] {
            assert!(!ended.stderr.contains(hidden), "a secret in the log");
        }
        let lines = ended.stderr.lines();
        let log = lines.skip_while(|line| !line.contains("Ctrl-C")).skip(1);
        let log: Vec<&str> = log.collect();
        for told in ["broke the protocol", "not let in", "places for connections"] {
            assert!(
                log.iter().any(|line| line.contains(told)),
                "{told}: {log:?}"
            );
        }
        assert!(log.len() <= LOG_LINES_MAX, "{log:?}");
        eprintln!(
            "{} records, each at all who read within {:.0?}",
            self.published, self.slowest
        );
    }
}

#[test]
fn i4_i7_hostile_clients_hurt_nobody_else() {
    let test = "hostile_clients_hurt_nobody_else";
    let folder = Folder::new();
    let pipeline = pipelines::publish(
        &folder,
        &[
            "auth: required",
            "at_end: exit",
            "subscribers_max: 1000",
            "handshake_timeout: 2s",
            "write_timeout: 2s",
        ],
    );
    let arguments = [
        "credentials",
        "create",
        pipeline.to_str().expect("UTF-8"),
        "--json",
    ];
    let created = wirefall(arguments).wait().expect(0);
    let created: serde_json::Value = serde_json::from_str(&created.stdout).expect("JSON");
    let (id, secret) = (created["id"].as_str(), created["secret"].as_str());
    let (id, secret) = (id.expect("an ID"), secret.expect("a secret"));
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    let url = run.wait_for_line("stream  ws://");
    let (address, path) = url.split_once('/').expect("a path");
    let target = Target {
        address: address.parse().expect("an address"),
        path: "/v1/streams/test".to_owned(),
        authorization: format!("Authorization: Bearer {secret}\r\n"),
    };
    let url = format!("ws://{id}:{secret}@{address}/{path}");
    let readers: Vec<_> = [Language::Python, Language::Node]
        .into_iter()
        .filter_map(|language| subscriber(test, language, &url))
        .collect();
    let mut readers = Readers {
        run,
        readers,
        published: 0,
        bytes: 0,
        slowest: Duration::ZERO,
    };
    let mut held = Vec::new();
    let attacks = [before_the_upgrade(), against_the_websocket(), against_v1()];
    for attack in attacks.iter().flatten() {
        readers.read_through(attack, &target, &mut held);
    }
    // Whoever shows a good credential is let in all the same.
    target.enter(Subscribed);
    drop(held);
    readers.have_everything(secret);
}
