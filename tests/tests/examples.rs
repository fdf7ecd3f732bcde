//! The examples as they are, but on free ports and as fast as they go.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use wirefall_tests::peers::free_address;
use wirefall_tests::pipelines::plugin;
use wirefall_tests::process::command;
use wirefall_tests::workspace::root;
use wirefall_tests::{Folder, Process, Signal, wait_until, wirefall};

/// The README's first command, and what it says to do next.
#[test]
fn the_flights_example_publishes_delays() {
    let folder = Folder::new();
    let mut run = example("flights", &folder);
    let url = run.wait_for_line("stream ");
    let subscriber = wirefall(["subscribe", &url, "--limit", "20"]).wait();
    assert_eq!(subscriber.code, Some(0), "{}", subscriber.stderr);
    let notices: Vec<serde_json::Value> = subscriber
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(notices.len(), 20);
    assert!(
        notices
            .iter()
            .all(|notice| notice["delay"].as_i64() > Some(15))
    );
    run.signal(Signal::Interrupt);
    let ended = run.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("unconfirmed 0"), "{}", ended.stderr);
}

/// The other direction, with a receiver that breaks the connection again and again.
#[test]
fn i1_the_push_example_loses_nothing() {
    let folder = Folder::new();
    let out = folder.path("out.ndjson");
    let out = out.to_str().expect("a path in UTF-8");
    let faults = ["--break-every", "100", "--break-times", "3"];
    let words = [&["receive", "127.0.0.1:0", "--out", out], &faults[..]].concat();
    let mut receiver = wirefall(words);
    let address = receiver
        .wait_for_line("receiving on ")
        .split(',')
        .next()
        .map(str::to_owned);
    let pipeline = example_file("push", &folder);
    let mut command = command(["run".as_ref(), pipeline.as_os_str()]);
    let mut run = Process::start(command.env("PUSH_URL", address.expect("an address")));
    run.close_stdin();
    let ended = run.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("read 4000 · delivered 786"),
        "{}",
        ended.stderr
    );
    let mut lines: Vec<String> = folder
        .read("out.ndjson")
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort_unstable();
    lines.dedup();
    let expected = late_flights();
    assert_eq!(
        lines.len(),
        expected,
        "each notice is there; those sent again are the same"
    );
}

/// Once each, although the receiver breaks the connection again and again.
#[test]
fn i1_the_once_example_brings_each_record_once() {
    let folder = Folder::new();
    let out = folder.path("out.ndjson");
    let out = out.to_str().expect("a path in UTF-8");
    let words = [
        "receive",
        "127.0.0.1:0",
        "--ack",
        "wirefall.v1",
        "--out",
        out,
    ];
    let faults = ["--break-every", "500", "--break-times", "3"];
    let mut receiver = wirefall([&words[..], &faults].concat());
    let address = receiver.wait_for_line("receiving on ");
    let address = address.split(',').next().expect("an address");
    let pipeline = example_file("once", &folder);
    let mut command = command(["run".as_ref(), pipeline.as_os_str()]);
    let mut run = Process::start(command.env("ONCE_URL", address));
    run.wait_for_line("exactly once, whichever side crashes");
    run.wait().expect(0);
    let flights = root().join("examples/flights/flights.ndjson");
    let sent = std::fs::read_to_string(flights).expect("a file");
    assert!(folder.read("out.ndjson") == sent, "each once, in order");
}

/// Both of the chain, the centre killed in the middle.
#[test]
fn i3_the_chain_example_brings_each_record_once() {
    let folders = [Folder::new(), Folder::new()];
    let mut edge = run_file(&example_file_of("chain", "edge.yaml", &folders[0]), &[]);
    let edge_url = edge.wait_for_line("stream ");
    let listen = free_address();
    let centre = example_file_of("chain", "centre.yaml", &folders[1]);
    let text = folders[1].read("centre.yaml");
    folders[1].write(
        "centre.yaml",
        text.replace("127.0.0.1:0", &listen.to_string()),
    );
    let start = || {
        let mut run = run_file(&centre, &[("EDGE_URL", &edge_url)]);
        let url = run.wait_for_line("stream ");
        (run, url)
    };
    let (first, url) = start();
    let words = ["subscribe", &url, "--from", "earliest", "--limit", "4000"];
    let subscriber = wirefall(words);
    wait_until("the first records", || !subscriber.stdout().is_empty());
    first.signal(Signal::Kill);
    first.wait();
    let _second = start();
    let got = subscriber.wait().expect(0).stdout;
    let flights = root().join("examples/flights/flights.ndjson");
    let sent = std::fs::read_to_string(flights).expect("a file");
    assert!(got == sent, "each once, in order");
}

/// The curl command of the example, and what its subscriber sees.
#[test]
fn the_ingest_example_publishes_what_is_posted() {
    let folder = Folder::new();
    let mut run = example("ingest", &folder);
    let post = run.wait_for_line("post    ");
    let url = run.wait_for_line("stream ");
    let (host, path) = post
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .expect("an address");
    let mut stream = TcpStream::connect(host).expect("a port");
    let body = "{\"order\": 7}";
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let words = ["subscribe", &url, "--from", "earliest", "--limit", "1"];
    let subscriber = wirefall(words).wait().expect(0);
    assert_eq!(subscriber.stdout, format!("{body}\n"));
}

/// How many different notices the example's input gives, counted without Wirefall.
fn late_flights() -> usize {
    let text =
        std::fs::read_to_string(root().join("examples/flights/flights.ndjson")).expect("a file");
    let notice = |line: &str| {
        let flight: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let delay = flight["dep_delay"].as_i64().filter(|delay| *delay > 15)?;
        Some(format!(
            "{} {} {} {} {delay}",
            flight["carrier"], flight["flight"], flight["origin"], flight["dest"]
        ))
    };
    let notices: std::collections::BTreeSet<String> = text.lines().filter_map(notice).collect();
    notices.len()
}

/// The pipeline of an example, its paths made absolute, on free ports and as fast as it goes.
fn example_file(name: &str, folder: &Folder) -> PathBuf {
    example_file_of(name, "pipeline.yaml", folder)
}

/// The same of one that has several.
fn example_file_of(name: &str, file: &str, folder: &Folder) -> PathBuf {
    let examples = root().join("examples");
    let text = std::fs::read_to_string(examples.join(name).join(file)).expect("a file");
    let absolute = |path: &str| root().join(path).display().to_string();
    let mut text = text
        .replace(
            "../../plugins/flight-delays",
            &plugin("flight-delays").display().to_string(),
        )
        .replace(
            "../flights/flights.ndjson",
            &absolute("examples/flights/flights.ndjson"),
        )
        .replace(
            "path: flights.ndjson",
            &format!("path: {}", absolute("examples/flights/flights.ndjson")),
        )
        .replace("rate: 400 ", "rate: 4000 ");
    for port in [9300, 9301, 9400, 9410, 9411] {
        let (shown, free) = (format!("listen: 127.0.0.1:{port}"), "listen: 127.0.0.1:0");
        text = text.replace(&shown, free);
    }
    folder.write(file, text)
}

fn example(name: &str, folder: &Folder) -> Process {
    run_file(&example_file(name, folder), &[])
}

/// Runs a pipeline with these variables.
fn run_file(file: &Path, variables: &[(&str, &str)]) -> Process {
    let mut command = command(["run".as_ref(), file.as_os_str()]);
    Process::start(command.envs(variables.iter().copied()))
}
