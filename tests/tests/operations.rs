//! The port of operators: how a run is, as a program sees it that watches it.

use std::net::SocketAddr;
use std::path::Path;

use wirefall_tests::peers::free_address;
use wirefall_tests::pipelines::{self, start};
use wirefall_tests::records::lines;
use wirefall_tests::{Folder, Process, Signal, raw, wait_until, wirefall};

/// Has the pipeline of a folder watched at an address.
fn watch(folder: &Folder, at: SocketAddr) {
    let service = format!("  state: state\n  metrics: {at}\n");
    let text = folder.read("pipeline.yaml");
    folder.write("pipeline.yaml", text.replace("  state: state\n", &service));
}

fn get(at: SocketAddr, path: &str) -> String {
    raw::ask(&at.to_string(), &format!("GET {path}"), "")
}

fn wait_until_ready(at: SocketAddr, expected: &str) {
    wait_until(expected, || get(at, "/readyz").ends_with(expected));
}

/// A receiver that is always at the same address.
fn receive(at: SocketAddr, out: &Path) -> Process {
    let at = at.to_string();
    let words = ["receive", &at, "--out"].map(std::ffi::OsStr::new);
    let mut receiver = wirefall(words.into_iter().chain([out.as_os_str()]));
    receiver.wait_for_line("receiving on ");
    receiver
}

#[test]
fn i2_the_account_of_a_push_is_exported_and_it_is_ready_while_it_is_connected() {
    let folder = Folder::new();
    let (at, server) = (free_address(), free_address());
    pipelines::pipeline(&folder, "stdin", &[], &pipelines::to(server, &[]), "");
    watch(&folder, at);
    let mut run = start(&folder);
    run.wait_for_line("metrics http://");
    assert!(get(at, "/healthz").starts_with("HTTP/1.1 200"));
    wait_until_ready(at, "not connected\n");
    let out = folder.path("out.ndjson");
    let receiver = receive(server, &out);
    wait_until_ready(at, "ready\n");
    assert!(run.write(lines(0..100).as_bytes()));
    let all = [
        "wirefall_info{pipeline=\"test\"} 1",
        "wirefall_records_read_total 100",
        "wirefall_records_settled_total{outcome=\"delivered\"} 100",
        "wirefall_journal_head_position 100",
        "wirefall_records_sent_total 100",
        "wirefall_reconnects_total 0",
        "wirefall_connected 1",
    ];
    wait_until("the account", || {
        let page = get(at, "/metrics");
        all.iter().all(|line| page.lines().any(|one| one == *line))
    });
    receiver.kill();
    wait_until_ready(at, "not connected\n");
    let _receiver = self::receive(server, &out);
    wait_until("another connection", || {
        get(at, "/metrics").contains("\nwirefall_reconnects_total 1\n")
    });
    run.close_stdin();
    let ended = run.wait().expect(0);
    assert_eq!(ended.account("delivered"), 100);
}

/// What the run before had read is settled by this one: its account adds up all the same.
#[test]
fn i2_what_an_earlier_run_left_is_in_the_account_that_is_exported() {
    let folder = Folder::new();
    let (at, server) = (free_address(), free_address());
    let journal = "journal: { driver: disk }\n";
    pipelines::pipeline(&folder, "stdin", &[], &pipelines::to(server, &[]), journal);
    watch(&folder, at);
    let has = |line: &str| get(at, "/metrics").lines().any(|one| one == line);
    let mut run = start(&folder);
    run.wait_for_line("metrics http://");
    assert!(run.write(lines(0..100).as_bytes()));
    wait_until("a full account", || {
        has("wirefall_journal_head_position 100")
    });
    run.kill();
    let mut run = start(&folder);
    run.wait_for_line("metrics http://");
    let _receiver = receive(server, &folder.path("out.ndjson"));
    let delivered = "wirefall_records_settled_total{outcome=\"delivered\"} 100";
    wait_until("what was left to be delivered", || has(delivered));
    assert!(has("wirefall_records_read_total 0"));
    assert!(has("wirefall_records_carried_in_total 100"));
    run.close_stdin();
    assert_eq!(run.wait().expect(0).account("carried in"), 100);
}

#[test]
fn a_stream_is_watched_there_as_well_and_other_pages_read_nothing() {
    let folder = Folder::new();
    let at = free_address();
    pipelines::publish(&folder, &[]);
    watch(&folder, at);
    let mut run = start(&folder);
    run.wait_for_line("metrics http://");
    let page = get(at, "/metrics");
    assert!(page.contains("\nwirefall_subscribers 0\n"), "{page}");
    assert!(!page.contains("wirefall_connected"), "{page}");
    let host = at.to_string();
    let foreign = "Origin: https://evil.example\r\n";
    for (request, headers, expected) in [
        ("GET /metrics", foreign, "403"),
        ("POST /metrics", "", "405"),
        ("GET /", "", "404"),
    ] {
        let answer = raw::ask(&host, request, headers);
        let status = answer.split(' ').nth(1);
        assert_eq!(status, Some(expected), "{request}: {answer}");
    }
    run.close_stdin();
    run.kill();
}

#[test]
fn posts_are_counted_by_what_they_are_answered() {
    let folder = Folder::new();
    let (at, posts) = (free_address(), free_address());
    let source = [format!("listen: {posts}"), "body_max: 100B".to_owned()];
    let sink = ["listen: 127.0.0.1:0".to_owned()];
    pipelines::pipeline(&folder, "http", &source, &sink, "");
    watch(&folder, at);
    let mut run = start(&folder);
    run.wait_for_line("metrics http://");
    assert!(!get(at, "/metrics").contains("posts_total"));
    let (fits, too_long) = ("{}", "x".repeat(101));
    for (body, status) in [(fits, "200"), (fits, "200"), (&too_long, "413")] {
        let head = format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = raw::ask(&posts.to_string(), "POST /v1/ingest/test", &head);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
    let page = get(at, "/metrics");
    for line in [
        "wirefall_posts_total{status=\"200\"} 2",
        "wirefall_posts_total{status=\"413\"} 1",
    ] {
        assert!(page.lines().any(|one| one == line), "{page}");
    }
    run.signal(Signal::Terminate);
    run.wait().expect(0);
}

/// What cannot be opened is told before the first record (I6).
#[test]
fn i6_an_address_that_another_process_has_ends_the_run_with_3() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("an address");
    pipelines::publish(&folder, &[]);
    watch(&folder, at);
    let ended = start(&folder).wait().expect(3);
    let told = format!("cannot listen on {at}: another process does");
    assert!(ended.stderr.contains(&told), "{}", ended.stderr);
}
