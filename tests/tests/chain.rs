//! Runtimes in a chain: the edge publishes, the centre subscribes and publishes again, and each of them
//! may be killed.

use std::net::SocketAddr;

use wirefall_tests::peers::free_address;
use wirefall_tests::pipelines::{received, start, stream, subscribe};
use wirefall_tests::records::{numbered, write_numbered};
use wirefall_tests::{Folder, Process, Signal, pipelines, raw, wait_until, wirefall};

const RECORDS: u64 = 20_000;

const JOURNAL: &str = "journal: { driver: disk, path: journal }\n";

/// How often one of the chain is killed; `WIREFALL_KILLS` says another number.
fn kills() -> u64 {
    let more = std::env::var("WIREFALL_KILLS").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(8)
}

/// A pipeline whose source is the stream at `from`, published at `address`.
fn centre(folder: &Folder, from: &str, source: &[&str], address: SocketAddr, journal: &str) {
    let mut config = vec![
        format!("url: {from}"),
        "reconnect: { min: 10ms, max: 200ms }".to_owned(),
    ];
    config.extend(source.iter().map(|line| (*line).to_owned()));
    let sink = [format!("listen: {address}")];
    pipelines::pipeline(folder, "websocket", &config, &sink, journal);
}

/// The edge, the centre and a subscriber of it, each killed at random moments: every record arrives
/// once, and in order.
fn killed_at_random(framing: &str, seed: u64) {
    let [edge, centre_at, end] = [(); 3].map(|()| Folder::new());
    let (at_edge, at_centre) = (free_address(), free_address());
    write_numbered(&edge.path("input.ndjson"), RECORDS);
    let source = ["path: input.ndjson".to_owned(), "rate: 5000".to_owned()];
    let sink = [format!("listen: {at_edge}"), format!("framing: {framing}")];
    pipelines::pipeline(&edge, "file", &source, &sink, JOURNAL);
    let framing = format!("framing: {framing}");
    let keys = ["from: earliest", "name: centre", &framing];
    centre(&centre_at, &stream(at_edge), &keys, at_centre, JOURNAL);
    let starts: [&dyn Fn() -> Process; 3] = [&|| start(&edge), &|| start(&centre_at), &|| {
        subscribe(&end, at_centre)
    }];
    let mut processes: Vec<Process> = starts.iter().map(|start| start()).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    for kill in 1..=kills() {
        let enough = RECORDS * kill / (kills() + 1) + random.u64(..RECORDS / (kills() + 1) / 2);
        wait_until("some more records", || {
            received(&end).len() as u64 >= enough
        });
        let victim = random.usize(..processes.len());
        let process = processes.remove(victim);
        process.signal(Signal::Kill);
        // What it locked is free once it is gone.
        assert_eq!(process.wait().code, None, "seed {seed}");
        processes.insert(victim, starts[victim]());
    }
    wait_until("the last record", || {
        received(&end).last() == Some(&(RECORDS - 1))
    });
    for process in processes.iter().rev() {
        process.signal(Signal::Terminate);
    }
    let mut ended: Vec<_> = processes.into_iter().map(Process::wait).collect();
    let seen = received(&end);
    assert!(
        seen.iter().copied().eq(0..RECORDS),
        "seed {seed}: {} records",
        seen.len()
    );
    ended.truncate(2);
    for run in ended {
        let run = run.expect(0);
        assert_eq!(run.account_or_none("missed"), 0, "{}", run.stderr);
        assert_eq!(run.account_or_none("gaps of unknown length"), 0);
    }
}

#[test]
fn i1_a_chain_that_is_killed_at_random_carries_each_record_once() {
    killed_at_random("record", fastrand::u64(..));
}

#[test]
fn i1_a_chain_of_batches_that_is_killed_at_random_carries_each_record_once() {
    killed_at_random("ndjson", fastrand::u64(..));
}

/// With a journal in memory the edge knows nothing of what it published before: that is told, and what
/// it publishes from then on comes.
#[test]
fn i2_an_edge_that_begins_anew_is_a_gap_and_the_chain_goes_on() {
    let [edge, centre_at, end] = [(); 3].map(|()| Folder::new());
    let (at_edge, at_centre) = (free_address(), free_address());
    pipelines::publish_at(&edge, at_edge, &[]);
    centre(
        &centre_at,
        &stream(at_edge),
        &["from: earliest"],
        at_centre,
        "",
    );
    let mut first = start(&edge);
    first.wait_for_line("stream  ");
    let run = start(&centre_at);
    let mut last = subscribe(&end, at_centre);
    assert!(first.write((numbered(0) + "\n").as_bytes()));
    wait_until("the first record", || received(&end) == [0]);
    first.kill();
    let mut second = start(&edge);
    second.wait_for_line("stream  ");
    assert!(second.write((numbered(1) + "\n").as_bytes()));
    wait_until("the second record", || received(&end) == [0, 1]);
    assert!(last.is_running());
    wait_until("the gap, for who watches the centre", || {
        let page = raw::ask(&at_centre.to_string(), "GET /metrics", "");
        page.contains("\nwirefall_source_gaps_total 1\n")
            && page.contains("\nwirefall_source_missed_total 0\n")
    });
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(0);
    assert_eq!(ended.account("gaps of unknown length"), 1);
    assert!(ended.stderr.contains("cannot go on where we were"));
}

/// The edge's credential is rotated: the session of the old secret ends, and the centre goes on with the new
/// one once its file has it.
#[test]
fn i1_a_centre_goes_on_with_the_secret_that_its_file_has_by_now() {
    let [edge, centre_at, end] = [(); 3].map(|()| Folder::new());
    let (at_edge, at_centre) = (free_address(), free_address());
    let pipeline = pipelines::publish_at(&edge, at_edge, &["auth: required"]);
    let pipeline = pipeline.to_str().expect("a path in UTF-8");
    let credentials = |words: &[&str]| -> serde_json::Value {
        let words = [&["credentials"], words, &["--json"]].concat();
        let told = wirefall(words).wait().expect(0).stdout;
        serde_json::from_str(&told).expect("JSON")
    };
    let told = |told: &serde_json::Value, key: &str| told[key].as_str().expect("a text").to_owned();
    let created = credentials(&["create", pipeline, "--scope", "subscribe"]);
    centre_at.write("secret", told(&created, "secret"));
    let header = "headers: [ { Authorization: \"Bearer ${file:secret}\" } ]";
    let keys = ["from: earliest", header];
    centre(&centre_at, &stream(at_edge), &keys, at_centre, "");
    let mut publishing = start(&edge);
    publishing.wait_for_line("stream  ");
    let mut run = start(&centre_at);
    let _last = subscribe(&end, at_centre);
    assert!(publishing.write((numbered(0) + "\n").as_bytes()));
    wait_until("the first record", || received(&end) == [0]);
    let id = told(&created, "id");
    let rotated = credentials(&["rotate", pipeline, &id, "--grace", "0s"]);
    run.wait_for_line("the source's connection broke");
    run.wait_for_line("401 Unauthorized");
    assert!(publishing.write((numbered(1) + "\n").as_bytes()));
    centre_at.write("secret", told(&rotated, "secret"));
    wait_until("the second record", || received(&end) == [0, 1]);
    run.signal(Signal::Terminate);
    run.wait().expect(0);
}

/// A server that is not there yet is waited for; one that is no stream of ours ends the run.
#[test]
fn a_centre_waits_for_its_edge_and_is_told_where_there_is_none() {
    let folder = Folder::new();
    let (at_edge, at_centre) = (free_address(), free_address());
    centre(
        &folder,
        &stream(at_edge),
        &["from: earliest"],
        at_centre,
        "",
    );
    let mut waiting = start(&folder);
    waiting.wait_for_line("the source's connection broke");
    let edge = Folder::new();
    pipelines::publish_at(&edge, at_edge, &[]);
    let mut publishing = start(&edge);
    publishing.wait_for_line("stream  ");
    waiting.wait_for_line("the source is connected");
    waiting.signal(Signal::Terminate);
    waiting.wait().expect(0);
    let check = || {
        let pipeline = folder.path("pipeline.yaml");
        wirefall(["check".as_ref(), "--connect".as_ref(), pipeline.as_os_str()]).wait()
    };
    let checked = check().expect(0).stdout;
    for seen in ["source, subprotocol: wirefall.v1", "source, ping: answered"] {
        assert!(checked.contains(seen), "{checked}");
    }
    let elsewhere = format!("ws://{at_edge}/v1/streams/other");
    centre(&folder, &elsewhere, &["from: earliest"], at_centre, "");
    let ended = start(&folder).wait().expect(3);
    assert!(ended.stderr.contains("404"), "{}", ended.stderr);
    let checked = check().expect(3).stdout;
    assert!(checked.contains("failed source, http"), "{checked}");
    publishing.kill();
}
