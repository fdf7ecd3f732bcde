//! The journal on disk through kills, full disks and restarts of the real binary.

use std::net::SocketAddr;
use std::path::Path;

use wirefall_tests::peers::free_address;
use wirefall_tests::pushing::{RECORDS, all_delivered, receive, received, wait_for_records};
use wirefall_tests::raw;
use wirefall_tests::records::{all_there, numbered, write_numbered};
use wirefall_tests::tiny::Tiny;
use wirefall_tests::{Folder, Process, Signal, pipelines, wait_until, wirefall};

const JOURNAL: &str = "journal: { driver: disk, path: journal }\n";

/// How often Wirefall is killed in each of these tests; `WIREFALL_KILLS` says another number.
fn kills() -> u64 {
    let more = std::env::var("WIREFALL_KILLS").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(4)
}

fn start(folder: &Folder) -> Process {
    wirefall(["run".as_ref(), folder.path("pipeline.yaml").as_os_str()])
}

fn kill(run: Process) {
    run.signal(Signal::Kill);
    assert_eq!(run.wait().code, None);
}

/// Starts a receiver at an address that the pipeline knows already.
fn receive_at(folder: &Folder, address: SocketAddr) -> Process {
    let out = folder.path("out.ndjson");
    let (address, out) = (address.to_string(), out.to_str().expect("a path in UTF-8"));
    let mut receiver = wirefall(["receive", &address, "--out", out, "--ack", "message"]);
    receiver.wait_for_line("receiving on");
    receiver
}

/// Writes a pipeline that pushes with a journal on disk.
fn pushing(folder: &Folder, source: &str, config: &[&str], address: SocketAddr, journal: &str) {
    let config: Vec<String> = config.iter().map(|line| (*line).to_owned()).collect();
    let sink = [
        format!("url: ws://{address}/"),
        "reconnect: { min: 10ms, max: 200ms }".to_owned(),
        "ack: message".to_owned(),
    ];
    pipelines::pipeline(folder, source, &config, &sink, journal);
}

/// Bytes of all segments of a journal.
fn segment_bytes(journal: &Path) -> u64 {
    let files = std::fs::read_dir(journal).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|end| end == "segment"))
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

fn received_bytes(folder: &Folder) -> u64 {
    let out = std::fs::metadata(folder.path("out.ndjson"));
    out.map_or(0, |out| out.len())
}

/// Whether a segment of a journal has this record.
fn holds(journal: &Path, record: &str) -> bool {
    let files = std::fs::read_dir(journal).into_iter().flatten().flatten();
    let mut contents = files.filter_map(|file| std::fs::read(file.path()).ok());
    contents.any(|content| memchr::memmem::find(&content, record.as_bytes()).is_some())
}

#[test]
fn i1_kills_at_random_moments_lose_nothing_of_a_file() {
    for sync in ["batch", "interval", "none"] {
        let folder = Folder::new();
        let (_receiver, address) = receive(&folder, &["--ack", "message"]);
        let count = 2500 * (kills() + 1);
        write_numbered(&folder.path("input.ndjson"), count);
        let journal = format!("journal: {{ driver: disk, path: journal, sync: {sync} }}\n");
        let source = ["path: input.ndjson", "rate: 10000"];
        pushing(&folder, "file", &source, address, &journal);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..kills() {
            // By bytes: to count the records of hundreds of lives would take longer than they do.
            let before = received_bytes(&folder);
            let run = start(&folder);
            let more = random.u64(100..150_000);
            wait_until("more records", || received_bytes(&folder) >= before + more);
            kill(run);
        }
        let ended = start(&folder).wait().expect(0);
        assert_eq!(ended.account("unconfirmed"), 0, "{}", ended.stderr);
        all_there(&received(&folder), count);
    }
}

/// What was read from standard input and not yet in the journal dies with the process; what is in the
/// journal does not, though no peer had it. Nothing is missing between two records of one life.
#[test]
fn i1_kills_at_random_moments_lose_nothing_of_standard_input_that_the_journal_had() {
    const LIFE: u64 = 1_000_000;
    let folder = Folder::new();
    let address = free_address();
    pushing(&folder, "stdin", &[], address, JOURNAL);
    let mut random = fastrand::Rng::with_seed(7);
    let mut safe = Vec::new();
    let lives = kills();
    for life in 0..lives {
        let mut run = start(&folder);
        let mut fed = 0;
        for _ in 0..random.u64(1..30) {
            let count = random.u64(1..400);
            let records = (fed..fed + count).map(|n| numbered(life * LIFE + n) + "\n");
            let text: String = records.collect();
            fed += count;
            assert!(run.write(text.as_bytes()));
            if random.bool() {
                let last = life * LIFE + fed - 1;
                let journal = folder.path("journal");
                wait_until("the journal has them", || holds(&journal, &numbered(last)));
                safe.push(last);
            }
        }
        kill(run);
    }
    let _receiver = receive_at(&folder, address);
    let mut run = start(&folder);
    run.close_stdin();
    let ended = run.wait().expect(0);
    let seen = received(&folder);
    assert_eq!(ended.account("carried in"), seen.len() as u64);
    assert_eq!(ended.account("delivered"), seen.len() as u64);
    let pieces = seen.chunk_by(|a, b| a + 1 == *b);
    let starts: Vec<u64> = pieces.map(|piece| piece[0]).collect();
    assert!(starts.iter().all(|start| start % LIFE == 0), "{starts:?}");
    assert!(starts.is_sorted());
    for last in safe {
        assert!(seen.contains(&last), "{last} was in the journal");
    }
}

#[test]
fn i2_what_is_unconfirmed_at_the_end_is_carried_into_the_next_run() {
    let folder = Folder::new();
    let address = free_address();
    write_numbered(&folder.path("input.ndjson"), 1000);
    pushing(&folder, "file", &["path: input.ndjson"], address, JOURNAL);
    let text = folder.read("pipeline.yaml");
    let service = "pipeline_id: test\n  shutdown_timeout: 100ms";
    folder.write("pipeline.yaml", text.replace("pipeline_id: test", service));
    let mut run = start(&folder);
    wait_until("the journal has them", || {
        segment_bytes(&folder.path("journal")) > 100_000
    });
    run.signal(Signal::Terminate);
    run.wait_for_line("in the journal: the next run delivers them");
    let ended = run.wait().expect(1);
    assert_eq!(ended.account("unconfirmed"), 1000, "{}", ended.stderr);
    let _receiver = receive_at(&folder, address);
    let ended = all_delivered(start(&folder).wait(), 1000);
    assert_eq!(ended.account("carried in"), 1000);
    assert_eq!(ended.account("read"), 0, "the source went on at its end");
    assert_eq!(all_there(&received(&folder), 1000), 0, "nothing twice");
}

/// A disk far smaller than what may be kept, and nobody there to take anything: the source waits. Then
/// somebody is, and what is confirmed makes room for the rest.
#[test]
fn i4_a_full_disk_holds_the_source_back_and_loses_nothing() {
    let folder = Folder::new();
    let disk = folder.path("disk");
    let Some(_disk) = Tiny::mount(&disk, 600) else {
        return;
    };
    let address = free_address();
    write_numbered(&folder.path("input.ndjson"), RECORDS);
    let journal = "journal: { driver: disk, path: disk/journal }\n";
    pushing(&folder, "file", &["path: input.ndjson"], address, journal);
    let mut run = start(&folder);
    run.wait_for_line("the journal cannot be written");
    let _receiver = receive_at(&folder, address);
    let ended = all_delivered(run.wait(), RECORDS);
    all_there(&received(&folder), RECORDS);
    let told = ended
        .stderr
        .matches("the journal cannot be written")
        .count();
    assert!(told < 5, "once, not each time: {}", ended.stderr);
}

#[test]
fn a_folder_that_cannot_be_used_is_told_before_the_first_record() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    write_numbered(&folder.path("input.ndjson"), 10);
    pushing(&folder, "file", &["path: input.ndjson"], address, JOURNAL);
    folder.write("journal", "a file");
    let ended = start(&folder).wait().expect(3);
    assert!(
        ended.stderr.contains("needs a folder of its own"),
        "{}",
        ended.stderr
    );
    std::fs::remove_file(folder.path("journal")).expect("it is there");
    let path = folder.path("journal");
    if let Some(disk) = Tiny::mount(&path, 600) {
        disk.make_read_only();
        let ended = start(&folder).wait().expect(3);
        assert!(ended.stderr.contains("Read-only"), "{}", ended.stderr);
    }
    assert!(received(&folder).is_empty());
}

#[test]
fn a_second_process_on_the_same_journal_is_refused() {
    let folder = Folder::new();
    let address = free_address();
    pushing(&folder, "stdin", &[], address, JOURNAL);
    let mut first = start(&folder);
    first.wait_for_line("stop ");
    let second = start(&folder).wait().expect(3);
    let told = "another process has this journal";
    assert!(second.stderr.contains(told), "{}", second.stderr);
    assert!(first.is_running());
}

/// Text messages that are published as binary ones would be control messages to `wirefall.v1`, and a record
/// could pose as one.
#[test]
fn i6_records_of_another_format_are_not_published() {
    let folder = Folder::new();
    let publish = |sink: &[&str]| {
        pipelines::publish(&folder, &[&["at_end: exit"], sink].concat());
        folder.write("pipeline.yaml", folder.read("pipeline.yaml") + JOURNAL);
        let mut run = start(&folder);
        run.write(b"{\"type\":\"mark\",\"position\":\"a.1\"}\n");
        run.close_stdin();
        run.wait()
    };
    publish(&[]).expect(0);
    let refused = publish(&["format: binary"]).expect(3).stderr;
    assert!(refused.contains("it has records as text"), "{refused}");
    publish(&["framing: ndjson"]).expect(0);
}

#[test]
fn a_damaged_journal_is_refused_with_its_place() {
    let folder = Folder::new();
    let address = free_address();
    pushing(&folder, "stdin", &[], address, JOURNAL);
    let mut run = start(&folder);
    for n in 0..20 {
        let before = segment_bytes(&folder.path("journal"));
        let records: String = (n * 10..n * 10 + 10).map(|n| numbered(n) + "\n").collect();
        run.write(records.as_bytes());
        wait_until("the journal has them", || {
            segment_bytes(&folder.path("journal")) > before
        });
    }
    kill(run);
    let path = folder.path("journal").join("0000000001.segment");
    let mut bytes = std::fs::read(&path).expect("a segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let ended = start(&folder).wait().expect(3);
    for part in [
        "0000000001.segment is damaged at byte",
        "restore the folder",
    ] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

/// Subscribers go on over a kill of the publisher: the epoch is the same and so are the positions.
#[test]
fn i1_subscribers_resume_over_a_kill_of_the_publisher() {
    let folder = Folder::new();
    let at = free_address();
    pipelines::publish_at(&folder, at, &["at_end: exit"]);
    folder.write("pipeline.yaml", folder.read("pipeline.yaml") + JOURNAL);
    let mut first = start(&folder);
    let url = first.wait_for_line("stream  ");
    let out = folder.path("out.ndjson");
    let out = out.to_str().expect("a path in UTF-8");
    let subscriber = wirefall(["subscribe", &url, "--out", out, "--from", "earliest"]);
    let lines =
        |range: std::ops::Range<u64>| -> String { range.map(|n| numbered(n) + "\n").collect() };
    first.write(lines(0..100).as_bytes());
    wait_for_records(&folder, 100);
    kill(first);
    let mut second = start(&folder);
    second.wait_for_line("stream  ");
    second.write(lines(100..200).as_bytes());
    wait_for_records(&folder, 200);
    second.close_stdin();
    assert_eq!(second.wait().expect(0).account("published"), 100);
    assert_eq!(received(&folder), (0..200).collect::<Vec<_>>());
    subscriber.signal(Signal::Terminate);
    drop(subscriber);
}

/// What is answered 204 stays deleted, whenever the process is killed.
#[test]
fn a_name_that_was_deleted_is_gone_over_a_kill() {
    let folder = Folder::new();
    let at = free_address();
    pipelines::publish_at(&folder, at, &[]);
    folder.write("pipeline.yaml", folder.read("pipeline.yaml") + JOURNAL);
    let mut run = start(&folder);
    let url = run.wait_for_line("stream  ");
    let host = at.to_string();
    let path = format!("/{}/names", url.splitn(4, '/').nth(3).expect("a path"));
    let names = || raw::ask(&host, &format!("GET {path}"), "");
    for name in ["stays", "goes"] {
        let subscriber = wirefall(["subscribe", &url, "--name", name, "--limit", "1"]);
        wait_until("it has subscribed", || {
            run.write(b"{}\n");
            !subscriber.stdout().is_empty()
        });
        subscriber.wait().expect(0);
    }
    let delete = || raw::ask(&host, &format!("DELETE {path}/goes"), "");
    // Its session may be there a moment longer.
    wait_until("it is deleted", || {
        let answer = delete();
        let status = answer.split(' ').nth(1);
        assert!(matches!(status, Some("204" | "409")), "{answer}");
        status == Some("204")
    });
    kill(run);
    let mut run = start(&folder);
    run.wait_for_line("stream  ");
    let known = names();
    assert!(known.contains("\"stays\""), "{known}");
    assert!(!known.contains("\"goes\""), "{known}");
    let again = delete();
    assert!(again.starts_with("HTTP/1.1 404"), "{again}");
    run.signal(Signal::Terminate);
    run.wait().expect(0);
}
