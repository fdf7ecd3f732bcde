//! Clients that break every rule: what each sends, what it is to get, and how it goes about it.
//!
//! Owns the table of what strangers do to any port, and the one function that does it while others are
//! served on. What is particular to a port is in the test of that port.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::raw::{Heard, Raw, frame, header};

pub mod handshake;

use self::Answer::{Alive, Closed, Ended, Held, Last, Left, Nothing, Status};
use self::Entry::{Plain, Subscribed, Tcp, V1};

/// Resident memory that is never passed, in KiB. Some 40 MiB are seen.
pub const RSS_KIB_MAX: u64 = 64 * 1024;

/// A whole text message.
pub const FIN_TEXT: u8 = 0x81;
const TEXT: u8 = 0x01;
const FIN_CONTINUATION: u8 = 0x80;
const CONTINUATION: u8 = 0x00;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
/// What the last Ping of who is to be alive says.
const ARE_YOU_THERE: &[u8] = b"are you there";

/// How far an attacker keeps the rules.
#[derive(Clone, Copy)]
pub enum Entry {
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
pub enum Answer {
    /// An answer of HTTP.
    Status(u16),
    /// The same, and the end of the connection: nothing else is answered.
    Last(u16),
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
type Sends = Arc<dyn Fn(&str) -> Pieces + Send + Sync>;
/// What is sent.
pub type Pieces = Box<dyn Iterator<Item = Vec<u8>>>;

/// One way to break the rules.
pub struct Attack {
    /// What it is.
    pub name: &'static str,
    entry: Entry,
    /// Connections that do it, all at a time.
    connections: usize,
    sends: Sends,
    answers: &'static [Answer],
}

/// One connection that sends this.
pub fn attack(
    name: &'static str,
    entry: Entry,
    answers: &'static [Answer],
    sends: impl Fn(&str) -> Pieces + Send + Sync + 'static,
) -> Attack {
    Attack {
        name,
        entry,
        connections: 1,
        sends: Arc::new(sends),
        answers,
    }
}

impl Attack {
    /// The same by so many connections at a time.
    #[must_use]
    pub fn by(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }
}

/// This, and nothing more.
pub fn once(bytes: impl Into<Vec<u8>>) -> Pieces {
    Box::new(std::iter::once(bytes.into()))
}

/// A byte every 20 ms: the pace is the attack.
pub fn slowly(bytes: Vec<u8>) -> Pieces {
    const PACE: Duration = Duration::from_millis(20);
    Box::new(bytes.into_iter().map(|byte| {
        std::thread::sleep(PACE);
        vec![byte]
    }))
}

/// So many times the same, in pieces of some hundred.
pub fn flood(times: usize, bytes: &[u8]) -> Pieces {
    const PIECE: usize = 500;
    Box::new(std::iter::repeat_n(bytes.repeat(PIECE), times / PIECE))
}

/// A text message.
pub fn says(text: &str) -> Vec<u8> {
    frame(FIN_TEXT, text.as_bytes())
}

/// A `subscribe` with these members.
pub fn subscribes(member: &str) -> Vec<u8> {
    says(&format!(r#"{{"type":"subscribe",{member}}}"#))
}

/// An `ack` of a place.
pub fn acks(position: &str, since: u32) -> Vec<u8> {
    says(&format!(
        r#"{{"type":"ack","position":"{position}","since":{since}}}"#
    ))
}

/// What is said before there is a request.
pub fn before_the_request() -> Vec<Attack> {
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
    ]
}

/// What says too little to be answered, until its time is over.
pub fn silence() -> Vec<Attack> {
    vec![
        attack("half a request", Tcp, &[Status(408), Ended], |_| {
            once("GET / HT")
        }),
        attack("a head, byte by byte", Tcp, &[Status(408), Ended], |_| {
            slowly(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(2000)).into_bytes())
        }),
        attack("nothing at all", Tcp, &[Status(408), Ended], |_| once("")),
        attack(
            "silence in 10,000 connections",
            Tcp,
            &[Status(408), Ended],
            |_| once(""),
        )
        .by(silent_connections()),
    ]
}

/// What breaks the rules of RFC 6455, at a port whose messages have so many bytes at most.
pub fn against_the_websocket(message_bytes_max: usize) -> Vec<Attack> {
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
        attack(
            "a message beyond the bound",
            Plain,
            &[Closed(1009)],
            move |_| once(frame(FIN_TEXT, &vec![b'x'; message_bytes_max + 1])),
        ),
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
        attack("a byte a second", Plain, &[Held], |_| once("")).by(20),
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
pub struct Target {
    /// The port.
    pub address: SocketAddr,
    /// The path of the WebSocket there.
    pub path: String,
    /// More lines in the head of a request.
    pub more: String,
}

impl Target {
    /// Comes as far as that; also the place that it was told.
    pub fn enter(&self, entry: Entry) -> (Raw, String) {
        let subprotocol = match entry {
            Tcp => return (Raw::dial(self.address), String::new()),
            Plain => "",
            V1 | Subscribed => "Sec-WebSocket-Protocol: wirefall.v1\r\n",
        };
        let more = format!("{}{subprotocol}", self.more);
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
    pub fn suffer(&self, attack: &Attack) -> Vec<Raw> {
        /// Tests share what their process may open.
        static MANY: Mutex<()> = Mutex::new(());
        let are_many = attack.connections > 1000;
        let _many = are_many.then(|| MANY.lock().unwrap_or_else(PoisonError::into_inner));
        let connect = |_| {
            let (mut raw, position) = self.enter(attack.entry);
            let asks = attack.answers == [Alive];
            // While it sends it reads, unless it is not to: nothing that comes back holds it up.
            match attack.connections == 1 && attack.answers != [Held] {
                true => {
                    let mut writer = raw.writer();
                    let sends = Arc::clone(&attack.sends);
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
            let answer = answer(raw, attack);
            let name = attack.name;
            assert!(attack.answers.contains(&answer), "{name}: {answer:?}");
        }
        Vec::new()
    }
}

/// Sends it, and at the end a Ping where one `asks` to be answered.
fn send(raw: &mut Raw, mut pieces: Pieces, asks: bool) {
    // Where the other side has gone there is an answer.
    let sent = pieces.try_for_each(|piece| raw.send(&piece));
    if sent.is_ok() && asks {
        let _ = raw.send(&frame(PING, ARE_YOU_THERE));
    }
}

/// What comes in the end.
fn answer(raw: &mut Raw, attack: &Attack) -> Answer {
    if matches!(attack.entry, Tcp) {
        let is_last = attack.answers.iter().any(|one| matches!(one, Last(_)));
        return match raw.status() {
            Ok(status) if is_last && raw.is_answered_no_more() => Last(status),
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

/// Those who are served while others attack.
pub trait Others {
    /// They are served once more, and notice nothing.
    fn go_on(&mut self);
    /// The process that serves them, and is attacked.
    fn attacked(&self) -> &Process;
}

/// Does all of these at a time while others are served on, and lets those go on who are held open. It costs
/// no memory.
pub fn endure(attacks: &[Attack], target: &Target, held: &mut Vec<Raw>, others: &mut impl Others) {
    let began = Instant::now();
    let more = std::thread::scope(|scope| {
        let attack = |attack| scope.spawn(move || target.suffer(attack));
        let attackers: Vec<_> = attacks.iter().map(attack).collect();
        let mut sips = 0;
        while !attackers.iter().all(|attacker| attacker.is_finished()) {
            others.go_on();
            if began.elapsed().as_secs() > sips {
                sips += 1;
                held.iter_mut().for_each(Raw::sip);
            }
        }
        let ended = attackers.into_iter().map(|attacker| attacker.join());
        ended.collect::<Vec<_>>()
    });
    for more in more {
        held.extend(more.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    }
    let names: Vec<&str> = attacks.iter().map(|attack| attack.name).collect();
    let names = names.join(", ");
    let (rss_kib, peak_kib) = (
        others.attacked().rss_kib(),
        others.attacked().peak_rss_kib(),
    );
    eprintln!(
        "{names}: {:.1?}, {rss_kib} KiB resident (peak {peak_kib})",
        began.elapsed()
    );
    assert!(peak_kib < RSS_KIB_MAX, "{names}: {peak_kib} KiB");
}
