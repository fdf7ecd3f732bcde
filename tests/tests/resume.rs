//! Subscribers of `wirefall.v1` through breaks: they go on where they were, or are told what is missing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use wirefall_tests::peers::{Language, Nginx, Receiver, free_address, resuming, subscriber};
use wirefall_tests::raw::{Heard, Raw, frame};
use wirefall_tests::records::numbered;
use wirefall_tests::tiny::Tiny;
use wirefall_tests::{Folder, Process, Signal, numbers, pipelines, wait_until, wirefall};

const LANGUAGES: [Language; 2] = [Language::Python, Language::Node];

/// Starts `wirefall run`; returns it with the address of its stream.
fn run(folder: &Folder, at: SocketAddr, sink: &[&str]) -> (Process, String) {
    let pipeline = pipelines::publish_at(folder, at, sink);
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    let url = run.wait_for_line("stream  ");
    (run, url)
}

fn run_anywhere(folder: &Folder, sink: &[&str]) -> (Process, String) {
    run(folder, SocketAddr::from(([127, 0, 0, 1], 0)), sink)
}

fn address(url: &str) -> SocketAddr {
    let address = url.trim_start_matches("ws://").split('/').next();
    address.and_then(|a| a.parse().ok()).expect("an address")
}

fn write(run: &mut Process, records: Range<u64>) {
    let lines: String = records.map(|n| numbered(n) + "\n").collect();
    assert!(run.write(lines.as_bytes()), "standard input is read");
}

fn hellos(peer: &Process) -> usize {
    peer.stderr().matches("hello ").count()
}

/// Starts `wirefall subscribe` with these arguments; it writes to `out.ndjson`.
fn subscribe(folder: &Folder, url: &str, arguments: &[&str]) -> Process {
    let out = folder.path("out.ndjson");
    let out = out.to_str().expect("a path in UTF-8");
    wirefall([&["subscribe", url, "--out", out], arguments].concat())
}

fn received(folder: &Folder) -> Vec<u64> {
    numbers(&folder.read("out.ndjson"))
}

#[test]
fn i2_through_an_nginx_that_cuts_idle_lines_nothing_is_lost_or_repeated() {
    const ROUND: u64 = 500;
    let test = "through_an_nginx_that_cuts_idle_lines";
    let folder = Folder::new();
    let (mut run, url) = run_anywhere(&folder, &["at_end: exit"]);
    let Some(nginx) = Nginx::start_impatient(test, address(&url)) else {
        return;
    };
    let url = url.replace(&address(&url).to_string(), &nginx.address.to_string());
    let mut peers: Vec<_> = LANGUAGES
        .into_iter()
        .filter_map(|language| resuming(test, language, &url, "earliest"))
        .collect();
    for round in 0..3 {
        write(&mut run, round * ROUND..(round + 1) * ROUND);
        // Nothing more comes: the line is cut, and they are back.
        for peer in &peers {
            wait_until("a line that is cut", || hellos(peer) >= round as usize + 2);
        }
    }
    write(&mut run, 3 * ROUND..4 * ROUND);
    run.close_stdin();
    for peer in peers.drain(..) {
        let ended = peer.wait().expect(0);
        assert!(numbers(&ended.stdout).into_iter().eq(0..4 * ROUND));
        let hellos = ended.stderr.matches("hello ").count();
        assert_eq!(ended.stderr.matches("hello true 0").count(), hellos);
        assert!(ended.stderr.contains("closed 1000"), "{}", ended.stderr);
    }
    assert_eq!(run.wait().expect(0).account("published"), 4 * ROUND);
}

#[test]
fn heartbeats_keep_a_line_that_would_be_cut() {
    let test = "heartbeats_keep_a_line";
    let folder = Folder::new();
    let (_run, url) = run_anywhere(&folder, &["heartbeat: 200ms"]);
    let Some(nginx) = Nginx::start_impatient(test, address(&url)) else {
        return;
    };
    let url = url.replace(&address(&url).to_string(), &nginx.address.to_string());
    let Some(peer) = resuming(test, Language::Node, &url, "latest") else {
        return;
    };
    // A plain subscriber that is connected after it, and twice as long, is cut.
    for _ in 0..2 {
        let plain = subscriber(test, Language::Python, &url).expect("it was here");
        plain.wait().expect(0);
    }
    assert_eq!(hellos(&peer), 1, "{}", peer.stderr());
}

/// With a journal in memory the next process knows nothing of the one before: that is told.
fn on_the_next_process(signal: Signal, told: &str) {
    let test = "on_the_next_process";
    let folder = Folder::new();
    let at = free_address();
    let (mut first, url) = run(&folder, at, &[]);
    let peers: Vec<_> = LANGUAGES
        .into_iter()
        .filter_map(|language| resuming(test, language, &url, "earliest"))
        .collect();
    let ours = subscribe(&folder, &url, &["--from", "earliest"]);
    write(&mut first, 0..100);
    wait_until("the first hundred", || {
        let all = peers
            .iter()
            .all(|peer| numbers(&peer.stdout()).len() == 100);
        all && received(&folder).len() == 100
    });
    first.signal(signal);
    if signal == Signal::Kill {
        drop(first);
    } else {
        first.wait().expect(0);
    }
    let (mut second, _) = run(&folder, at, &["at_end: exit"]);
    write(&mut second, 100..200);
    wait_until("all are back", || {
        let all = peers.iter().all(|peer| hellos(peer) >= 2);
        all && received(&folder).len() == 200
    });
    second.close_stdin();
    for peer in peers {
        let ended = peer.wait().expect(0);
        assert!(numbers(&ended.stdout).into_iter().eq(0..200));
        assert!(
            ended.stderr.contains("hello false null"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }
    let ended = ours.wait().expect(0);
    assert!(received(&folder).into_iter().eq(0..200));
    let lost = "records may be lost; how many the server does not know";
    assert!(ended.stderr.contains(lost), "{}", ended.stderr);
    second.wait().expect(0);
}

#[test]
fn i2_after_a_kill_the_next_process_is_another_epoch_and_says_so() {
    on_the_next_process(Signal::Kill, "hello false null");
}

#[test]
fn i2_after_sigterm_subscribers_come_again_to_the_next_process() {
    on_the_next_process(Signal::Terminate, "closed 1012 restart");
}

#[test]
fn i2_subscribe_that_is_killed_again_and_again_has_each_record_once() {
    const RECORDS: u64 = 20_000;
    const KILLS: u64 = 10;
    let folder = Folder::new();
    let (mut run, url) = run_anywhere(&folder, &[]);
    for round in 0..KILLS {
        write(
            &mut run,
            round * RECORDS / KILLS..(round + 1) * RECORDS / KILLS,
        );
        let before = received(&folder).len();
        let subscribe = subscribe(&folder, &url, &["--from", "earliest"]);
        // In whatever it does: at its first records, or once it has all.
        let enough = match round % 3 {
            0 => (round + 1) * RECORDS / KILLS,
            _ => before as u64 + 1,
        };
        wait_until("some records more", || {
            received(&folder).len() as u64 >= enough
        });
        subscribe.kill();
    }
    let last = subscribe(&folder, &url, &["--from", "earliest"]);
    write(&mut run, RECORDS..RECORDS + 1);
    wait_until("the last record", || {
        received(&folder).last() == Some(&RECORDS)
    });
    last.signal(Signal::Terminate);
    last.wait().expect(0);
    assert!(received(&folder).into_iter().eq(0..=RECORDS));
}

#[test]
fn i2_a_file_goes_on_with_its_own_stream_after_another_was_asked() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let (mut run, url) = run_anywhere(&folder, &[]);
    write(&mut run, 0..10);
    let first = ["--from", "earliest", "--limit", "10"];
    subscribe(&folder, &url, &first).wait().expect(0);
    let place = folder.read("out.ndjson.place");
    let pipeline = pipelines::publish(&elsewhere, &[]);
    let other = elsewhere
        .read("pipeline.yaml")
        .replace("id: test", "id: other");
    elsewhere.write("pipeline.yaml", other);
    let mut stranger = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    let strange_url = stranger.wait_for_line("stream  ");
    let refused = subscribe(&folder, &strange_url, &[]).wait().expect(2);
    assert!(
        refused.stderr.contains("of the stream `test`"),
        "{}",
        refused.stderr
    );
    assert_eq!(folder.read("out.ndjson.place"), place);
    write(&mut run, 10..20);
    subscribe(&folder, &url, &["--limit", "10"])
        .wait()
        .expect(0);
    assert!(received(&folder).into_iter().eq(0..20));
}

#[test]
fn a_name_goes_on_without_a_place_of_its_own_and_is_in_use_once() {
    let folder = Folder::new();
    let (mut run, url) = run_anywhere(&folder, &["at_end: exit"]);
    let named = ["subscribe", &url, "--name", "archive"];
    let first = wirefall(named);
    wait_until("it has subscribed", || {
        // Only what is published once it has subscribed is seen.
        write(&mut run, 0..1);
        !first.stdout().is_empty()
    });
    let before = numbers(&first.stdout()).len();
    assert!(before > 0);
    let second = wirefall(named);
    let ended = first.wait().expect(1);
    assert!(ended.stderr.contains("4409"), "{}", ended.stderr);
    second.signal(Signal::Terminate);
    second.wait().expect(0);
    write(&mut run, 1..101);
    let third = wirefall(named);
    wait_until("what came while it was away", || {
        numbers(&third.stdout()).contains(&100)
    });
    run.close_stdin();
    let third = third.wait().expect(0);
    let seen: Vec<_> = numbers(&third.stdout)
        .into_iter()
        .filter(|n| *n > 0)
        .collect();
    assert!(seen.into_iter().eq(1..101));
    run.wait().expect(0);
}

#[test]
fn a_plain_server_is_read_with_a_word_and_not_where_more_is_asked() {
    let test = "a_plain_server_is_read_with_a_word";
    let folder = Folder::new();
    let out = folder.path("received");
    let Some(server) = Receiver::start(test, Language::Python, &out, &[]) else {
        return;
    };
    let url = format!("ws://{}/", server.address);
    let mut plain = wirefall(["subscribe", &url]);
    plain.wait_for_line("speaks wirefall.plain only");
    let ended = wirefall(["subscribe", &url, "--from", "earliest"]).wait();
    let ended = ended.expect(3);
    let told = "does not speak wirefall.v1";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
}

/// A subscriber that asks for everything and takes nothing.
fn stalled(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).expect("a port");
    let request = format!(
        "GET /v1/streams/test HTTP/1.1\r\nHost: {at}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: wirefall.v1\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    let subscribe = b"{\"type\":\"subscribe\"}";
    // A text frame with a mask of zeros.
    let mut frame = vec![0x81, 0x80 | subscribe.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(subscribe);
    stream.write_all(&frame).expect("sent");
    stream
}

#[test]
fn i4_a_thousand_that_take_nothing_cost_the_others_nothing() {
    const STALLED: usize = 1000;
    const RECORDS: u64 = 100_000;
    const RSS_KIB_MAX: u64 = 64 * 1024;
    let folder = Folder::new();
    let (mut run, url) = run_anywhere(&folder, &["at_end: exit", "write_timeout: 20s"]);
    let idle_kib = run.rss_kib();
    let stalled: Vec<_> = (0..STALLED).map(|_| stalled(address(&url))).collect();
    let connected_kib = run.rss_kib();
    let live = subscribe(&folder, &url, &["--from", "earliest"]);
    for start in (0..RECORDS).step_by(1000) {
        write(&mut run, start..start + 1000);
    }
    wait_until("every record at the one that reads", || {
        received(&folder).len() as u64 == RECORDS
    });
    let stalled_kib = run.peak_rss_kib();
    eprintln!("idle {idle_kib} KiB, connected {connected_kib} KiB, stalled {stalled_kib} KiB");
    assert!(stalled_kib - idle_kib < RSS_KIB_MAX, "{stalled_kib} KiB");
    drop(stalled);
    run.close_stdin();
    let ended = live.wait().expect(0);
    assert!(received(&folder).into_iter().eq(0..RECORDS));
    assert!(!ended.stderr.contains("lost"), "{}", ended.stderr);
    assert_eq!(run.wait().expect(0).account("published"), RECORDS);
}

/// Records with one of the keys that were asked for come, and no others: here the formatter gives a key to
/// the second copy of one record.
#[test]
fn only_records_with_a_key_that_was_asked_for_come() {
    let folder = Folder::new();
    let sink = ["listen: 127.0.0.1:0", "at_end: exit"].map(str::to_owned);
    let processors = format!(
        "processors:\n- driver: wasm\n  config:\n    plugin: {}\n    \
           config: {{ does: twice, when: '\"n\":7,' }}\n",
        pipelines::plugin("hostile").display()
    );
    let pipeline = pipelines::pipeline(&folder, "stdin", &[], &sink, &processors);
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    let url = run.wait_for_line("stream  ");
    let keys = ["--from", "earliest", "--key", "own", "--key", "other"];
    let subscriber = subscribe(&folder, &url, &keys);
    write(&mut run, 0..20);
    wait_until("the record with the key", || !received(&folder).is_empty());
    run.close_stdin();
    run.wait().expect(0);
    subscriber.wait().expect(0);
    assert_eq!(received(&folder), [7]);
}

/// Says `subscribe` with these members; the opcode and payload of what comes first.
fn asked(at: SocketAddr, members: &str) -> (u8, Vec<u8>) {
    const FIN_BINARY: u8 = 0x82;
    let spoken = "Sec-WebSocket-Protocol: wirefall.v1\r\n";
    let mut raw = Raw::upgrade(at, "/v1/streams/test", spoken);
    let subscribe = format!(r#"{{"type":"subscribe",{members}}}"#);
    let sent = raw.send(&frame(FIN_BINARY, subscribe.as_bytes()));
    sent.expect("sent");
    match raw.hear() {
        Heard::Frame(opcode, payload) => (opcode, payload),
        heard => panic!("{heard:?}"),
    }
}

/// Where it is to begin.
fn begin(at: SocketAddr, members: &str) -> String {
    let (opcode, hello) = asked(at, members);
    let text = String::from_utf8_lossy(&hello);
    assert_eq!(opcode, 2, "{members}: {text}");
    let hello: serde_json::Value = serde_json::from_slice(&hello).expect("a hello");
    assert_eq!(hello["lost"], 0, "{hello}");
    hello["from"].as_str().expect("a position").to_owned()
}

/// Publishes standard input, with a journal on disk.
fn publish_from_disk(folder: &Folder, at: SocketAddr, sink: &[&str], path: &str) -> Process {
    let pipeline = pipelines::publish_at(folder, at, sink);
    let journal = format!("journal: {{ driver: disk, path: {path} }}\n");
    folder.write("pipeline.yaml", folder.read("pipeline.yaml") + &journal);
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    run.wait_for_line("stream  ");
    run
}

/// Whoever gives a name and nothing else has nothing but the server's word that it is known.
#[test]
fn i1_a_name_that_was_welcomed_is_known_after_a_kill() {
    let folder = Folder::new();
    let at = free_address();
    let start = || publish_from_disk(&folder, at, &[], "journal");
    for round in 0..5 {
        let name = format!(r#""name":"n{round}""#);
        let run = start();
        let from = begin(at, &name);
        run.signal(Signal::Kill);
        run.wait();
        let mut run = start();
        write(&mut run, 0..10);
        wait_until("something that it has to get", || {
            begin(at, r#""from":"latest""#) != from
        });
        assert_eq!(begin(at, &name), from, "round {round}");
        run.signal(Signal::Kill);
        run.wait();
    }
}

/// A name that would not outlive the process is not welcomed; those without one are.
#[test]
fn i1_a_name_that_cannot_be_written_down_is_told_to_come_later() {
    let folder = Folder::new();
    let disk = folder.path("disk");
    let Some(_disk) = Tiny::mount(&disk, 600) else {
        return;
    };
    let at = free_address();
    let sink = ["handshake_timeout: 1s"];
    let mut run = publish_from_disk(&folder, at, &sink, "disk/journal");
    let hog = disk.join("hog");
    let mut file = std::fs::File::create(&hog).expect("a file");
    while file.write_all(&[1; 1024]).is_ok() {}
    drop(file);
    let name = r#""name":"archive""#;
    let (opcode, reason) = asked(at, name);
    let code = u16::from_be_bytes([reason[0], reason[1]]);
    assert_eq!((opcode, code), (8, 1013), "{reason:?}");
    let (opcode, _) = asked(at, name);
    assert_eq!(opcode, 8, "it is not known meanwhile either");
    begin(at, r#""from":"latest""#);
    run.wait_for_line("where named readers are cannot be written down");
    std::fs::remove_file(&hog).expect("it was made");
    begin(at, name);
}

/// Who took none of its Pongs before it gave a new name, and takes them while it waits for the disk, costs
/// nothing although it could be written to.
#[test]
fn i4_who_waits_for_its_name_is_not_served_over_and_over() {
    const FIN_PING: u8 = 0x89;
    const FIN_BINARY: u8 = 0x82;
    const PINGS: usize = 100_000;
    let folder = Folder::new();
    let disk = folder.path("disk");
    let Some(_disk) = Tiny::mount(&disk, 600) else {
        return;
    };
    let at = free_address();
    let run = publish_from_disk(&folder, at, &["handshake_timeout: 3s"], "disk/journal");
    let mut file = std::fs::File::create(disk.join("hog")).expect("a file");
    while file.write_all(&[1; 1024]).is_ok() {}
    let spoken = "Sec-WebSocket-Protocol: wirefall.v1\r\n";
    let mut raw = Raw::upgrade(at, "/v1/streams/test", spoken);
    let pings = frame(FIN_PING, &[0; 120]).repeat(PINGS);
    raw.send(&pings).expect("sent");
    let subscribe = br#"{"type":"subscribe","name":"archive"}"#;
    raw.send(&frame(FIN_BINARY, subscribe)).expect("sent");
    wait_until("it is heard", || {
        run.stderr()
            .contains("where named readers are cannot be written down")
    });
    let before = run.cpu_ticks();
    let mut pongs = 0;
    let last = loop {
        match raw.hear() {
            Heard::Frame(10, _) => pongs += 1,
            heard => break heard,
        }
    };
    assert!(pongs < PINGS, "it was never behind with its Pongs");
    assert!(
        matches!(&last, Heard::Frame(8, reason) if reason.starts_with(&1013_u16.to_be_bytes())),
        "{last:?}"
    );
    let ticks = run.cpu_ticks() - before;
    assert!(
        ticks < 100,
        "{ticks} hundredths of a second of three seconds"
    );
}
