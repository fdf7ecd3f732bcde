//! Clients that break every rule, one after the other, before a stream that others read on (I4, I7).
//!
//! As it is and under TLS. Whoever reads notices nothing, the memory stays flat, and the log tells once what happened.

use std::net::SocketAddr;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use wirefall_tests::hostile::Answer::{Alive, Closed, Left, Status};
use wirefall_tests::hostile::Entry::{Plain, Subscribed, Tcp, V1};
use wirefall_tests::hostile::handshake::{against_the_handshake, is_answered_by_a_handshake};
use wirefall_tests::hostile::{
    Attack, FIN_TEXT, Others, Target, acks, against_the_websocket, attack, before_the_request,
    endure, flood, once, says, silence, subscribes,
};
use wirefall_tests::peers::{Language, subscriber, tls_keys, tunnel};
use wirefall_tests::raw::frame;
use wirefall_tests::records::lines;
use wirefall_tests::{Fault, Folder, Process, Proxy, numbers, pipelines, wait_until, wirefall};

/// What nobody may find in a log. Not one that could come about by chance.
const WRONG: &str = "wf_wrongwrongwrongwrongwrongwrongwrongwrongwro";
/// Lines that the log may have in the end, whatever was repeated how often: the account, and each kind of
/// news once, or twice where a minute has passed.
const LOG_LINES_MAX: usize = 10;
/// Within so long whoever reads has what is published, whatever else goes on.
const UNNOTICED: Duration = Duration::from_secs(5);
/// Records that are published at a time.
const RECORDS: u64 = 20;
/// Longest message of a subscriber that speaks no `wirefall.v1`.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

fn wrong_tickets() -> Attack {
    let request = format!(
        "POST /v1/streams/test/tickets HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {WRONG}\r\n\r\n"
    );
    attack(
        "tickets for wrong credentials",
        Tcp,
        &[Status(401), Status(429)],
        move |_| once(&*request),
    )
    .by(2000)
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
        attack("no Close", Subscribed, &[Left], |_| once("")).by(200),
    ]
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
    /// The stream ends, and all have had all of it, in order. The log tells what happened, and no secret.
    fn have_everything(mut self, secret: &str, tellings: &[&str]) {
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
        for told in tellings {
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

impl Others for Readers {
    /// Publishes some, and waits until all have them.
    fn go_on(&mut self) {
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

    fn attacked(&self) -> &Process {
        &self.run
    }
}

/// A stream that is published, and what lets others in.
struct Published {
    run: Process,
    address: SocketAddr,
    path: String,
    id: String,
    secret: String,
}

impl Published {
    fn start(folder: &Folder, sink: &[&str]) -> Self {
        let lines = [
            "auth: required",
            "at_end: exit",
            "subscribers_max: 1000",
            "handshake_timeout: 2s",
            "write_timeout: 2s",
        ];
        let pipeline = pipelines::publish(folder, &[&lines, sink].concat());
        let pipeline_word = pipeline.to_str().expect("UTF-8");
        let create = ["credentials", "create", pipeline_word, "--json"];
        let created = wirefall(create).wait().expect(0);
        let created: serde_json::Value = serde_json::from_str(&created.stdout).expect("JSON");
        let told = |what: &str| created[what].as_str().expect(what).to_owned();
        let mut run = pipelines::start(folder);
        let url = run.wait_for_line("stream  ws");
        let (_, url) = url.split_once("://").expect("an address");
        let (address, path) = url.split_once('/').expect("a path");
        Self {
            run,
            address: address.parse().expect("an address"),
            path: path.to_owned(),
            id: told("id"),
            secret: told("secret"),
        }
    }

    /// Attackers who go to this address, and show what lets them in.
    fn target(&self, address: SocketAddr) -> Target {
        Target {
            address,
            path: "/v1/streams/test".to_owned(),
            more: format!("Authorization: Bearer {}\r\n", self.secret),
        }
    }

    /// Those who read at this address.
    fn read_at(self, test: &str, address: SocketAddr) -> Readers {
        let Self {
            run,
            path,
            id,
            secret,
            ..
        } = self;
        let url = format!("ws://{id}:{secret}@{address}/{path}");
        let languages = [Language::Python, Language::Node].into_iter();
        Readers {
            run,
            readers: languages
                .filter_map(|language| subscriber(test, language, &url))
                .collect(),
            published: 0,
            bytes: 0,
            slowest: Duration::ZERO,
        }
    }
}

#[test]
fn i4_i7_hostile_clients_hurt_nobody_else() {
    let folder = Folder::new();
    let published = Published::start(&folder, &[]);
    let (address, secret) = (published.address, published.secret.clone());
    let target = published.target(address);
    let mut readers = published.read_at("hostile_clients_hurt_nobody_else", address);
    let mut held = Vec::new();
    let attacks = [
        before_the_request(),
        silence(),
        vec![wrong_tickets()],
        against_the_websocket(MESSAGE_BYTES_MAX),
        against_v1(),
    ];
    for attack in attacks.iter().flatten() {
        endure(from_ref(attack), &target, &mut held, &mut readers);
    }
    // Whoever shows a good credential is let in all the same.
    target.enter(Subscribed);
    drop(held);
    let told = ["broke the protocol", "not let in", "places for connections"];
    readers.have_everything(&secret, &told);
}

#[test]
fn i4_i7_hostile_clients_hurt_nobody_else_under_tls() {
    let test = "hostile_clients_hurt_nobody_else_under_tls";
    let folder = Folder::new();
    let tls = tls_keys();
    let published = Published::start(&folder, &[&tls]);
    let (address, secret) = (published.address, published.secret.clone());
    is_answered_by_a_handshake(address);
    let proxy = Proxy::start(address);
    let tunnels = [address, address, proxy.address()].map(|to| tunnel(test, to));
    let [
        Some((_one, of_readers)),
        Some((_two, of_attackers)),
        Some((_three, through_proxy)),
    ] = tunnels
    else {
        return;
    };
    let (outside, inside) = (published.target(address), published.target(of_attackers));
    let cut = published.target(through_proxy);
    let mut readers = published.read_at(test, of_readers);
    let mut held = Vec::new();
    let before = [before_the_request(), silence(), against_the_handshake()];
    endure(
        &before.into_iter().flatten().collect::<Vec<_>>(),
        &outside,
        &mut held,
        &mut readers,
    );
    for attack in &against_the_websocket(MESSAGE_BYTES_MAX) {
        endure(from_ref(attack), &inside, &mut held, &mut readers);
    }
    // Resets in mid-record: what is sent is longer than what the kernel passes on at once.
    for _ in 0..20 {
        let (mut raw, _) = cut.enter(Plain);
        let before = proxy.passed();
        let _ = raw.send(&frame(FIN_TEXT, &[b'x'; 16 << 20]));
        wait_until("a part of it", || proxy.passed() > before);
        proxy.fault(Fault::Reset);
        readers.go_on();
        proxy.fault(Fault::None);
    }
    drop(held);
    readers.have_everything(&secret, &["broke the protocol", "places for connections"]);
}
