//! Clients that break every rule, one after the other, before a stream that others read on (I4, I7).
//!
//! Whoever reads notices nothing, the memory stays flat, and the log tells once what happened.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use wirefall_tests::hostile::Answer::{Alive, Closed, Left, Status};
use wirefall_tests::hostile::Entry::{Subscribed, Tcp, V1};
use wirefall_tests::hostile::{
    Attack, Others, Target, acks, against_the_websocket, attack, before_the_request, endure, flood,
    once, says, silence, subscribes,
};
use wirefall_tests::peers::{Language, subscriber};
use wirefall_tests::records::lines;
use wirefall_tests::{Folder, Process, numbers, pipelines, wait_until, wirefall};

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
        more: format!("Authorization: Bearer {secret}\r\n"),
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
    readers.have_everything(secret);
}
