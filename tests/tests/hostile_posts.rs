//! Clients that break every rule, before a source to which others post (I1, I4, I7).
//!
//! As it is and under TLS. Good posts are answered 200 all the same, with nothing lost and nothing twice; the memory stays flat, and
//! the log is short and has no secret.

use std::net::SocketAddr;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use wirefall_tests::hostile::Answer::{Ended, Held, Last, Left, Status};
use wirefall_tests::hostile::Entry::Tcp;
use wirefall_tests::hostile::handshake::{against_the_handshake, is_answered_by_a_handshake};
use wirefall_tests::hostile::{
    Answer, Attack, Others, Target, attack, before_the_request, endure, flood, once, silence,
    slowly,
};
use wirefall_tests::peers::{free_address, tls_keys, tunnel};
use wirefall_tests::pipelines::{self, subscribe};
use wirefall_tests::raw::Raw;
use wirefall_tests::records::{Tail, lines};
use wirefall_tests::{Folder, Process, Signal, wait_until, wirefall};

/// What nobody may find in a log.
const WRONG: &str = "wf_wrongwrongwrongwrongwrongwrongwrongwrongwro";
/// What is hidden in another request's body, and is to stay there.
const HIDDEN: &str = "hidden";
/// Records of a post.
const RECORDS: u64 = 20;
/// Within so long a post is answered 200, whatever else goes on.
const UNNOTICED: Duration = Duration::from_secs(5);
/// Lines that the log may have, whatever was repeated how often: of each kind of news one, and the account.
const LOG_LINES_MAX: usize = 8;

/// Where posts go, and what lets them in.
#[derive(Clone)]
struct Port {
    address: SocketAddr,
    secret: String,
}

impl Port {
    /// A request, with these lines in its head, `BODY` behind it.
    fn request(&self, head: &str, body: &str) -> Vec<u8> {
        let secret = &self.secret;
        format!(
            "POST /v1/ingest/test HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n\
             {head}\r\n{body}"
        )
        .into_bytes()
    }

    /// The same of a record, whose length is told.
    fn text(&self, head: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        self.request(
            &format!("Content-Type: text/plain\r\nContent-Length: {length}\r\n{head}"),
            body,
        )
    }

    fn json(&self, body: &str) -> Vec<u8> {
        let length = body.len();
        self.request(
            &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
            body,
        )
    }

    fn chunked(&self, body: &str) -> Vec<u8> {
        self.request(
            "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n",
            body,
        )
    }
}

/// A row whose request is the same each time.
fn says(name: &'static str, answers: &'static [Answer], request: Vec<u8>) -> Attack {
    attack(name, Tcp, answers, move |_| once(&*request))
}

/// Those who are slow, and hold what they can.
fn slow(port: &Port) -> Vec<Attack> {
    let late = &[Status(408), Status(400), Ended];
    let endless = format!("X: {}", "x".repeat(10_000));
    let head = port.request(&endless, "");
    let body = port.text("", &"x".repeat(10_000));
    let short = port.request("Content-Type: text/plain\r\nContent-Length: 1000\r\n", "x");
    let chunk = port.chunked("1\r\nx\r\n");
    let nothing = port.chunked("");
    let most = port.request(
        "Content-Type: text/plain\r\nContent-Length: 1048576\r\n",
        "",
    );
    vec![
        attack("a slow head", Tcp, late, move |_| slowly(head.clone())),
        attack("a slow body", Tcp, late, move |_| {
            Box::new(once(&body[..300]).chain(slowly(body[300..].to_vec())))
        }),
        says("a body that is short", late, short),
        says("a chunk and no other", late, chunk),
        // More than may be in flight, if all came that is announced.
        says("bodies of any length that do not come", &[Held], nothing).by(100),
        says("long bodies that do not come", &[Held], most).by(100),
    ]
}

/// What two readers of a request may understand differently.
fn ambiguous(port: &Port) -> Vec<Attack> {
    const WRONG: &[Answer] = &[Last(400), Ended];
    // RFC 9112, section 6.3: the chunks count, and the connection ends.
    const CHUNKS: &[Answer] = &[Last(200)];
    let hidden = String::from_utf8(port.text("", HIDDEN)).expect("text");
    let lengths =
        |lengths: &str| port.request(&format!("Content-Type: text/plain\r\n{lengths}"), "xxxxx");
    let coded = |coding: &str| {
        port.request(
            &format!("Content-Type: text/plain\r\n{coding}"),
            &format!("3\r\nodd\r\n0\r\n\r\n{hidden}"),
        )
    };
    let long = format!("Content-Length: {}\r\n", hidden.len() + 13);
    vec![
        says(
            "a length and chunks",
            CHUNKS,
            coded(&format!("{long}Transfer-Encoding: chunked\r\n")),
        ),
        says(
            "chunks and a length",
            CHUNKS,
            coded(&format!("Transfer-Encoding: chunked\r\n{long}")),
        ),
        says(
            "chunks twice",
            WRONG,
            coded("Transfer-Encoding: chunked, chunked\r\n"),
        ),
        says(
            "chunks in two lines",
            WRONG,
            coded("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ),
        says(
            "chunks of gzip",
            WRONG,
            coded("Transfer-Encoding: gzip, chunked\r\n"),
        ),
        says(
            "an unknown coding",
            WRONG,
            coded("Transfer-Encoding: xchunked\r\n"),
        ),
        says(
            "a space before the colon",
            WRONG,
            coded("Transfer-Encoding : chunked\r\n"),
        ),
        says(
            "a tab in the coding",
            WRONG,
            coded("Transfer-Encoding: \x0bchunked\r\n"),
        ),
        says(
            "a folded line",
            WRONG,
            coded("Transfer-Encoding:\r\n chunked\r\n"),
        ),
        says(
            "two lengths",
            WRONG,
            lengths("Content-Length: 5\r\nContent-Length: 4\r\n"),
        ),
        says(
            "two lengths in a line",
            WRONG,
            lengths("Content-Length: 5, 4\r\n"),
        ),
        says(
            "a negative length",
            WRONG,
            lengths("Content-Length: -1\r\n"),
        ),
        says(
            "a length with a sign",
            WRONG,
            lengths("Content-Length: +5\r\n"),
        ),
        says("a length in hex", WRONG, lengths("Content-Length: 0x5\r\n")),
        says(
            "a length beyond 64 bits",
            WRONG,
            lengths("Content-Length: 18446744073709551616\r\n"),
        ),
        says("chunks in HTTP/1.0", WRONG, {
            let request = String::from_utf8(coded("Transfer-Encoding: chunked\r\n")).expect("text");
            request.replace("HTTP/1.1", "HTTP/1.0").into_bytes()
        }),
        says(
            "a chunk of 2^64 bytes",
            WRONG,
            port.chunked("10000000000000000\r\nx"),
        ),
        says(
            "a chunk that is longer than it says",
            WRONG,
            port.chunked("1\r\nxx\r\n0\r\n\r\n"),
        ),
        says("no number of bytes", WRONG, port.chunked("z\r\n")),
    ]
}

/// What is too much.
fn bombs(port: &Port) -> Vec<Attack> {
    const MUCH: &[Answer] = &[Status(413), Status(400), Status(431), Ended];
    const JSON: &[Answer] = &[Status(400), Status(413)];
    let (chunks, extension, trailers) =
        (port.chunked(""), port.chunked("1;"), port.chunked("0\r\n"));
    let long = port.request(
        "Content-Type: text/plain\r\nContent-Length: 1000000000\r\n",
        "",
    );
    let tiny = port.chunked(&format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(1_000_000)));
    let deep = |open: &str, close: &str, times: usize| {
        port.json(&format!("{}{}", open.repeat(times), close.repeat(times)))
    };
    let head: String = (0..1000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let encoded = |encoding: &str| port.text(encoding, "\x1f\u{8b}");
    vec![
        attack("chunks without end", Tcp, MUCH, move |_| {
            Box::new(once(&*chunks).chain(flood(
                1_000_000,
                b"40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n",
            )))
        }),
        attack("a chunk extension without end", Tcp, MUCH, move |_| {
            Box::new(once(&*extension).chain(flood(10_000_000, b"x")))
        }),
        attack("trailers without end", Tcp, MUCH, move |_| {
            Box::new(once(&*trailers).chain(flood(1_000_000, b"X: x\r\n")))
        }),
        attack("a body beyond the bound", Tcp, &[Status(413)], move |_| {
            Box::new(once(&*long).chain(flood(50_000_000, b"x")))
        }),
        says("a thousand headers", MUCH, port.text(&head, "x")),
        says(
            "a header of a megabyte",
            MUCH,
            port.text(&format!("X: {}\r\n", "x".repeat(1 << 20)), "x"),
        ),
        says(
            "arrays that do not close",
            JSON,
            port.json(&"[".repeat(1_000_000)),
        ),
        says(
            "objects that do not close",
            JSON,
            port.json(&"{\"a\":".repeat(170_000)),
        ),
        says(
            "a million tiny records",
            &[Status(200), Status(413)],
            port.json(&format!("[0{}]", ",0".repeat(520_000))),
        ),
        says("chunks of a byte", &[Status(200)], tiny),
        says(
            "nested arrays",
            &[Status(200), Status(400)],
            deep("[", "]", 500_000),
        ),
        says(
            "a number of a megabyte",
            &[Status(200), Status(400)],
            port.json(&"9".repeat(1 << 20)),
        ),
        says(
            "gzip",
            &[Status(415)],
            encoded("Content-Encoding: gzip\r\n"),
        ),
        says(
            "gzip behind nothing",
            &[Status(415)],
            encoded("Content-Encoding: identity, gzip\r\n"),
        ),
        says(
            "gzip in a second line",
            &[Status(415)],
            encoded("Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"),
        ),
    ]
}

/// Keys of odd shapes, and what else is odd in a head.
fn odd(port: &Port) -> Vec<Attack> {
    const NO_KEY: &[Answer] = &[Status(400)];
    let key = |key: &str| port.text(&format!("Idempotency-Key: {key}\r\n"), "odd");
    let in_query = String::from_utf8(port.text("", "odd")).expect("text");
    let in_query = in_query.replace("/test HTTP", &format!("/test?token={} HTTP", port.secret));
    let wrong = Port {
        secret: WRONG.to_owned(),
        ..port.clone()
    };
    let (aborted, left) = (
        port.request(
            "Content-Type: text/plain\r\nContent-Length: 1000\r\n",
            "odd",
        ),
        port.text("", "odd"),
    );
    vec![
        says("an empty key", NO_KEY, key("")),
        says("a key of spaces", NO_KEY, key("   ")),
        says("a key with a space", &[Status(200)], key("a b")),
        says("a long key", NO_KEY, key(&"k".repeat(256))),
        says("a key of 8 KiB", NO_KEY, key(&"k".repeat(8192))),
        says("a key that is no ASCII", NO_KEY, key("\u{1f511}")),
        says("a key with a tab", NO_KEY, key("a\tb")),
        says("two keys", NO_KEY, key("one\r\nIdempotency-Key: two")),
        says("a key of JSON", &[Status(200)], key(r#"{"a":"\\u0000"}"#)),
        says("the longest key", &[Status(200)], key(&"k".repeat(255))),
        says(
            "a secret in the address",
            &[Status(400)],
            in_query.into_bytes(),
        ),
        // Where there are more at once than the port has places, one without a post in it gives way.
        says(
            "a wrong secret",
            &[Status(401), Status(429), Ended],
            wrong.text("", "odd"),
        )
        .by(2000),
        says(
            "a thousand requests at once",
            &[Status(200)],
            port.text("", "odd").repeat(1000),
        ),
        says("aborted in mid-body", &[Left], aborted).by(1000),
        says("gone before the answer", &[Left], left).by(200),
    ]
}

/// A client that posts numbered records, each post until it is answered 200, and one who reads them.
struct Poster {
    run: Process,
    subscriber: Process,
    /// What the subscriber writes.
    out: Tail,
    port: Port,
    posted: u64,
    again: u64,
    slowest: Duration,
}

impl Poster {
    /// Whether a post is answered 200.
    fn post(&self, request: &[u8]) -> bool {
        let mut raw = Raw::dial(self.port.address);
        // Where many strangers come, one who is idle gives way, and posts again.
        raw.send(request).is_ok() && raw.status() == Ok(200)
    }
}

impl Others for Poster {
    fn go_on(&mut self) {
        let body = lines(self.posted..self.posted + RECORDS);
        let head = format!(
            "Content-Type: application/x-ndjson\r\nContent-Length: {}\r\nIdempotency-Key: {}\r\n",
            body.len(),
            self.posted
        );
        let request = self.port.request(&head, &body);
        let began = Instant::now();
        wait_until("an answer of 200", || {
            let done = self.post(&request);
            self.again += u64::from(!done);
            done
        });
        self.posted += RECORDS;
        wait_until("what was posted, at who reads", || {
            self.out.look().last() == Some(&(self.posted - 1))
        });
        self.slowest = self.slowest.max(began.elapsed());
        assert!(
            self.slowest < UNNOTICED,
            "it took {:?} to post",
            self.slowest
        );
    }

    fn attacked(&self) -> &Process {
        &self.run
    }
}

/// A source to which others post, and who reads what is posted.
struct Posted {
    run: Process,
    subscriber: Process,
    address: SocketAddr,
    secret: String,
}

impl Posted {
    fn start(folder: &Folder, more: &[String]) -> Self {
        let (address, publish) = (free_address(), free_address());
        let listen = format!("listen: {address}");
        let keys = [
            &*listen,
            "auth: required",
            "body_max: 1MiB",
            "in_flight: 8MiB",
            "read_timeout: 2s",
        ];
        let source = [&keys.map(str::to_owned), more].concat();
        let sink = [format!("listen: {publish}")];
        let pipeline = pipelines::pipeline(folder, "http", &source, &sink, "");
        let pipeline_word = pipeline.to_str().expect("UTF-8");
        let create = [
            "credentials",
            "create",
            pipeline_word,
            "--scope",
            "ingest",
            "--json",
        ];
        let created = wirefall(create).wait().expect(0);
        let created: serde_json::Value = serde_json::from_str(&created.stdout).expect("JSON");
        let secret = created["secret"].as_str().expect("a secret").to_owned();
        let mut run = pipelines::start(folder);
        run.wait_for_line("post    ");
        Self {
            run,
            subscriber: subscribe(folder, publish),
            address,
            secret,
        }
    }

    /// One who posts at this address.
    fn posted_at(self, folder: &Folder, address: SocketAddr) -> Poster {
        let out = folder.path("out.ndjson");
        wait_until("the file of who reads", || out.exists());
        let secret = self.secret;
        let mut poster = Poster {
            run: self.run,
            subscriber: self.subscriber,
            out: Tail::of(&out),
            port: Port { address, secret },
            posted: 0,
            again: 0,
            slowest: Duration::ZERO,
        };
        poster.go_on();
        poster
    }
}

/// Where attackers go.
fn target(address: SocketAddr) -> Target {
    Target {
        address,
        path: String::new(),
        more: String::new(),
    }
}

/// All that a request may have wrong.
fn against_requests(port: &Port) -> Vec<Attack> {
    [ambiguous(port), bombs(port), odd(port)]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn i1_i4_i7_hostile_posts_hurt_no_other() {
    let folder = Folder::new();
    let posted = Posted::start(&folder, &[]);
    let target = target(posted.address);
    let address = posted.address;
    let mut poster = posted.posted_at(&folder, address);
    let port = poster.port.clone();
    let mut held = Vec::new();
    let waiting: Vec<Attack> = silence().into_iter().chain(slow(&port)).collect();
    endure(&waiting, &target, &mut held, &mut poster);
    for attack in before_the_request().iter().chain(&against_requests(&port)) {
        endure(from_ref(attack), &target, &mut held, &mut poster);
    }
    drop(held);
    poster.go_on();
    poster.have_everything(&folder);
}

#[test]
fn i1_i4_i7_hostile_posts_hurt_no_other_under_tls() {
    let test = "hostile_posts_hurt_no_other_under_tls";
    let folder = Folder::new();
    let posted = Posted::start(&folder, &[tls_keys()]);
    let address = posted.address;
    is_answered_by_a_handshake(address);
    let [Some((_one, of_the_poster)), Some((_two, of_attackers))] =
        [(); 2].map(|()| tunnel(test, address))
    else {
        return;
    };
    let (outside, inside) = (target(address), target(of_attackers));
    let mut poster = posted.posted_at(&folder, of_the_poster);
    let port = poster.port.clone();
    let mut held = Vec::new();
    let before = [before_the_request(), silence(), against_the_handshake()];
    endure(
        &before.into_iter().flatten().collect::<Vec<_>>(),
        &outside,
        &mut held,
        &mut poster,
    );
    endure(&slow(&port), &inside, &mut held, &mut poster);
    for attack in &against_requests(&port) {
        endure(from_ref(attack), &inside, &mut held, &mut poster);
    }
    drop(held);
    poster.go_on();
    poster.have_everything(&folder);
}

impl Poster {
    fn have_everything(mut self, folder: &Folder) {
        self.run.signal(Signal::Terminate);
        let ended = self.run.wait().expect(0);
        self.subscriber.signal(Signal::Terminate);
        self.subscriber.wait();
        let expected: Vec<u64> = (0..self.posted).collect();
        assert!(self.out.look() == expected, "each once, in order");
        assert!(
            !folder.read("out.ndjson").contains(HIDDEN),
            "a hidden request"
        );
        for secret in [&*self.port.secret, WRONG] {
            assert!(!ended.stderr.contains(secret), "a secret in the log");
        }
        let log = ended
            .stderr
            .lines()
            .skip_while(|line| !line.contains("Ctrl-C"));
        let log: Vec<&str> = log.skip(1).collect();
        assert!(log.len() <= LOG_LINES_MAX, "{log:#?}");
        assert!(!ended.stderr.contains("panicked"), "{log:#?}");
        eprintln!(
            "{} records, {} posted again, each answered within {:.0?}",
            self.posted, self.again, self.slowest
        );
    }
}
