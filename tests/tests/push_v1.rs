//! A push that speaks `wirefall.v1`: each record once, through crashes of either side; and receivers that
//! break the protocol.

use std::net::SocketAddr;

use wirefall_tests::peers::{Language, Nginx, Receiver, certificate, free_address};
use wirefall_tests::pushing::{IMPATIENT, all_delivered, receive, received, wait_for_records};
use wirefall_tests::records::{lines, write_numbered};
use wirefall_tests::tiny::Tiny;
use wirefall_tests::{Folder, Process, Signal, pipelines, wait_until, wirefall};

const JOURNAL: &str = "journal: { driver: disk, path: journal }\n";
const FAILOVER: &str = "failover:\n  driver: file\n  config: { path: failover.ndjson }\n";
const V1: [&str; 2] = ["--ack", "wirefall.v1"];

/// How often either side is killed; `WIREFALL_KILLS` says another number.
fn kills() -> u64 {
    let more = std::env::var("WIREFALL_KILLS").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(6)
}

/// Writes a pipeline that pushes `input.ndjson` to `address`.
fn pipeline(folder: &Folder, address: SocketAddr, source: &[&str], sink: &[&str], more: &str) {
    let source: Vec<String> = ["path: input.ndjson"]
        .iter()
        .chain(source)
        .map(|line| (*line).to_owned())
        .collect();
    let sink = [&["ack: wirefall.v1"], sink].concat();
    pipelines::pipeline(
        folder,
        "file",
        &source,
        &pipelines::to(address, &sink),
        more,
    );
}

fn start(folder: &Folder) -> Process {
    wirefall(["run".as_ref(), folder.path("pipeline.yaml").as_os_str()])
}

fn receive_at(folder: &Folder, address: SocketAddr, more: &[&str]) -> Process {
    let out = folder.path("out.ndjson");
    let (address, out) = (address.to_string(), out.to_str().expect("a path in UTF-8"));
    let words = [&["receive", &address, "--out", out][..], &V1, more].concat();
    let mut receiver = wirefall(words);
    receiver.wait_for_line("receiving on");
    receiver
}

fn received_bytes(folder: &Folder) -> u64 {
    let out = std::fs::metadata(folder.path("out.ndjson"));
    out.map_or(0, |out| out.len())
}

#[track_caller]
fn each_once(folder: &Folder, count: u64) {
    let seen = received(folder);
    let odd = seen.iter().zip(0..).find(|(seen, wanted)| *seen != wanted);
    assert_eq!(odd, None, "lost, twice or out of order");
    assert_eq!(seen.len() as u64, count);
}

/// Either side dies at any moment, at times both. Where frames hold several records, a place is counted
/// in frames from a position that the journal must still have.
#[test]
fn i1_kills_of_both_sides_lose_nothing_and_repeat_nothing() {
    for framing in ["record", "ndjson"] {
        let folder = Folder::new();
        let address = free_address();
        let count = 3000 * (kills() + 1);
        write_numbered(&folder.path("input.ndjson"), count);
        let sink = [
            &format!("framing: {framing}"),
            "window: { records: 2000 }",
            "confirm_timeout: 5s",
            "frame_max: 16KiB",
        ];
        // So small that what is confirmed goes at once.
        let journal = "journal: { driver: disk, path: journal, retention: { bytes: 512KiB } }\n";
        pipeline(&folder, address, &["rate: 15000"], &sink, journal);
        let text = folder.read("pipeline.yaml");
        let service = "pipeline_id: test\n  batch_bytes: 64KiB";
        folder.write("pipeline.yaml", text.replace("pipeline_id: test", service));
        let mut random = fastrand::Rng::with_seed(11);
        let mut receiver = receive_at(&folder, address, &[]);
        let mut run = start(&folder);
        for kill in 0..kills() {
            let before = received_bytes(&folder);
            let more = random.u64(100..150_000);
            wait_until("more records, or all of them", || {
                received_bytes(&folder) >= before + more || !run.is_running()
            });
            if kill % 2 == 0 || random.u8(..4) == 0 {
                run.kill();
                run = start(&folder);
            }
            if kill % 2 == 1 || random.u8(..4) == 0 {
                receiver.kill();
                receiver = receive_at(&folder, address, &[]);
            }
        }
        let ended = run.wait().expect(0);
        assert_eq!(ended.account("unconfirmed"), 0, "{}", ended.stderr);
        each_once(&folder, count);
    }
}

/// Breaks of the line alone: what was under way is sent again, and taken once.
#[test]
fn i1_what_is_sent_again_after_a_break_is_taken_once() {
    for how in ["reset", "close", "half-open", "stall", "refuse-503"] {
        let folder = Folder::new();
        let faults = [
            "--break-every",
            "1501",
            "--break-times",
            "4",
            "--break-how",
            how,
        ];
        let (_receiver, address) = receive(&folder, &[&V1[..], &faults].concat());
        write_numbered(&folder.path("input.ndjson"), 20_000);
        let impatient = [
            "confirm_timeout: 1s",
            "write_timeout: 1s",
            "ping_interval: 1s",
        ];
        pipeline(&folder, address, &[], &impatient, JOURNAL);
        all_delivered(start(&folder).wait(), 20_000);
        each_once(&folder, 20_000);
    }
}

#[test]
fn a_signal_on_either_side_is_no_break_of_the_stream() {
    let folder = Folder::new();
    let address = free_address();
    write_numbered(&folder.path("input.ndjson"), 20_000);
    pipeline(&folder, address, &["rate: 10000"], &[], JOURNAL);
    let receiver = receive_at(&folder, address, &[]);
    let run = start(&folder);
    wait_for_records(&folder, 1000);
    run.signal(Signal::Terminate);
    let first = run.wait().expect(0).account("read");
    let run = start(&folder);
    wait_for_records(&folder, first as usize + 1000);
    receiver.signal(Signal::Terminate);
    receiver.wait().expect(0);
    let _receiver = receive_at(&folder, address, &[]);
    run.wait().expect(0);
    each_once(&folder, 20_000);
}

/// Records that no receiver survives, also from the middle of a frame: they alone go to the failover.
#[test]
fn i1_a_record_that_kills_its_receiver_is_taken_out_of_its_frame() {
    for framing in ["record", "ndjson", "json-array"] {
        let folder = Folder::new();
        let faults = ["--break-on", "\"n\":1234,"];
        let (_receiver, address) = receive(&folder, &[&V1[..], &faults].concat());
        write_numbered(&folder.path("input.ndjson"), 3000);
        let framing_line = format!("framing: {framing}");
        let sink = [framing_line.as_str(), "batch: { records: 100 }"];
        let sink = &sink[..if framing == "record" { 1 } else { 2 }];
        pipeline(&folder, address, &[], sink, &format!("{JOURNAL}{FAILOVER}"));
        let ended = start(&folder).wait().expect(0);
        assert_eq!(ended.account("failed over"), 1, "{}", ended.stderr);
        assert_eq!(ended.account("delivered"), 2999, "{}", ended.stderr);
        assert!(folder.read("failover.ndjson").contains("1234"));
        let rows = folder.read("out.ndjson").replace("},{", "}\n{");
        let rows = rows.replace(['[', ']'], "");
        let expected = lines(0..1234) + &lines(1235..3000);
        assert!(rows == expected, "{framing}: each other record once");
    }
}

/// A receiver whose disk is full ends, with nothing acknowledged that it has not; with room it goes on.
#[test]
fn i1_a_full_disk_under_the_receiver_loses_nothing_and_repeats_nothing() {
    let folder = Folder::new();
    let disk = folder.path("disk");
    let Some(_disk) = Tiny::mount(&disk, 4096) else {
        return;
    };
    std::fs::write(disk.join("filler"), vec![0; 3 << 20]).expect("it fits");
    let address = free_address();
    write_numbered(&folder.path("input.ndjson"), 20_000);
    pipeline(&folder, address, &[], &[], JOURNAL);
    let out = disk.join("out.ndjson");
    let (at, out) = (address.to_string(), out.to_str().expect("a path in UTF-8"));
    let words = [&["receive", &at, "--out", out][..], &V1].concat();
    let mut receiver = wirefall(&words);
    receiver.wait_for_line("receiving on");
    let run = start(&folder);
    let ended = receiver.wait().expect(1);
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
    std::fs::remove_file(disk.join("filler")).expect("it was there");
    let mut receiver = wirefall(&words);
    receiver.wait_for_line("receiving on");
    run.wait().expect(0);
    assert!(
        folder.read("disk/out.ndjson") == lines(0..20_000),
        "each once"
    );
}

/// What is not ours is not emptied.
/// Exactly once is promised where it is kept, and nowhere else.
#[test]
fn a_source_that_begins_anew_is_not_exactly_once() {
    let folder = Folder::new();
    write_numbered(&folder.path("input.ndjson"), 1);
    let says = |source: &[&str]| {
        pipeline(&folder, free_address(), source, &[], JOURNAL);
        let file = folder.path("pipeline.yaml");
        let check = wirefall(["check".as_ref(), file.as_os_str()]);
        check.wait().expect(0).stdout
    };
    let promise = "exactly once, whichever side crashes";
    assert!(says(&[]).contains(promise));
    for key in ["repeat: 3", "resume: false"] {
        let said = says(&[key]);
        assert!(!said.contains(promise), "{key}: {said}");
        assert!(said.contains("from its beginning"), "{key}: {said}");
    }
}

#[test]
fn a_file_without_a_place_is_left_alone() {
    let folder = Folder::new();
    folder.write("out.ndjson", "mine\n");
    let out = folder.path("out.ndjson");
    let out = out.to_str().expect("a path in UTF-8");
    let words = [&["receive", "127.0.0.1:0", "--out", out][..], &V1].concat();
    let ended = wirefall(words).wait().expect(2);
    assert!(
        ended.stderr.contains("no place beside it"),
        "{}",
        ended.stderr
    );
    assert_eq!(folder.read("out.ndjson"), "mine\n");
}

/// A journal in memory begins a new numbering: that is told on both sides, and nothing is left out.
#[test]
fn another_epoch_is_told() {
    let folder = Folder::new();
    let address = free_address();
    let mut receiver = receive_at(&folder, address, &[]);
    write_numbered(&folder.path("input.ndjson"), 1000);
    pipeline(&folder, address, &[], &[], "");
    start(&folder).wait().expect(0);
    write_numbered(&folder.path("input.ndjson"), 2000);
    let mut run = start(&folder);
    run.wait_for_line("cannot go on where the receiver stands: an unknown number of records");
    receiver.wait_for_line("the sender does not go on where this receiver stands");
    run.wait().expect(0);
    // The source remembers what was confirmed, so this time nothing came twice.
    each_once(&folder, 2000);
}

#[test]
fn a_server_that_does_not_speak_it_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    write_numbered(&folder.path("input.ndjson"), 10);
    pipeline(&folder, address, &[], &[], JOURNAL);
    let ended = start(&folder).wait().expect(3);
    let told = "the server does not speak wirefall.v1";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    // And the other way round.
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &V1);
    write_numbered(&folder.path("input.ndjson"), 10);
    pipelines::push(&folder, address, &[], &[]);
    let ended = start(&folder).wait().expect(3);
    let told = "speaks wirefall.v1 and nothing else";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
}

#[test]
fn a_file_of_another_stream_is_refused() {
    let folder = Folder::new();
    let (mut receiver, address) = receive(&folder, &V1);
    write_numbered(&folder.path("input.ndjson"), 100);
    pipeline(&folder, address, &[], &[], JOURNAL);
    start(&folder).wait().expect(0);
    let text = folder.read("pipeline.yaml");
    let text = text.replace("pipeline_id: test", "pipeline_id: other");
    folder.write(
        "pipeline.yaml",
        text.replace("path: journal", "path: journal2"),
    );
    let mut run = start(&folder);
    receiver.wait_for_line("the file is of the stream `test`, not `other`");
    run.wait_for_line("4400");
    run.kill();
    each_once(&folder, 100);
}

#[test]
fn i1_a_receiver_in_python_takes_each_record_once_through_kills() {
    a_receiver_takes_each_record_once_through_kills(Language::Python, &["backwards"]);
}

#[test]
fn i1_a_receiver_in_node_takes_each_record_once_through_kills() {
    a_receiver_takes_each_record_once_through_kills(Language::Node, &[]);
}

fn a_receiver_takes_each_record_once_through_kills(language: Language, words: &[&str]) {
    let folder = Folder::new();
    let out = folder.path("out.ndjson");
    let test = format!("a_receiver_takes_each_record_once ({language:?})");
    let Some(mut receiver) = Receiver::start_v1(&test, language, &out, words) else {
        return;
    };
    write_numbered(&folder.path("input.ndjson"), 20_000);
    let sink = ["framing: ndjson", "batch: { records: 7 }"];
    pipeline(&folder, receiver.address, &["rate: 10000"], &sink, JOURNAL);
    let mut run = start(&folder);
    for part in [3000, 9000] {
        wait_until("a part", || received_bytes(&folder) > part * 100);
        receiver.restart();
        wait_until("a part", || received_bytes(&folder) > (part + 3000) * 100);
        run.kill();
        run = start(&folder);
    }
    receiver.wait_for_line("hello true 0");
    run.wait().expect(0);
    receiver.wait_for_line("bye end");
    receiver.wait_for_line("closed 1000");
    each_once(&folder, 20_000);
}

/// What a receiver must not do is told to it, and confirms nothing.
#[test]
fn i1_a_receiver_that_breaks_the_protocol_is_told_and_confirms_nothing() {
    // Who never says `subscribe` as it should ends the run, soon where it says something.
    for (word, told, ends_soon) in [
        ("beyond", "closed 4400 `ack` beyond what was sent", false),
        (
            "named",
            "closed 4400 `name` and `keys` are not for a push",
            true,
        ),
        ("latest", "closed 4400 a push leaves nothing out", true),
        (
            "mute",
            "closed 4408 the receiver did not say `subscribe`",
            false,
        ),
    ] {
        let folder = Folder::new();
        let out = folder.path("out.ndjson");
        let Some(mut receiver) = Receiver::start_v1(word, Language::Python, &out, &[word]) else {
            return;
        };
        write_numbered(&folder.path("input.ndjson"), 100);
        pipeline(&folder, receiver.address, &[], &[], JOURNAL);
        let mut run = start(&folder);
        receiver.wait_for_line(told);
        if !ends_soon {
            run.signal(Signal::Terminate);
            run.wait_for_line("stopping");
            run.signal(Signal::Terminate);
        }
        let ended = run.wait().expect(1);
        assert_eq!(ended.account("delivered"), 0, "{word}");
    }
}

/// It never said where to go on: nothing could ever be delivered, so the run ends and says so.
#[test]
fn a_receiver_that_never_subscribes_rightly_ends_the_run() {
    let folder = Folder::new();
    let out = folder.path("out.ndjson");
    let Some(receiver) =
        Receiver::start_v1("never_subscribes", Language::Python, &out, &["latest"])
    else {
        return;
    };
    write_numbered(&folder.path("input.ndjson"), 100);
    pipeline(&folder, receiver.address, &[], &[], JOURNAL);
    let ended = start(&folder).wait().expect(1);
    let told = "does not say where to go on";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
}

#[test]
fn a_place_that_nobody_knows_is_told_and_everything_comes() {
    let folder = Folder::new();
    let out = folder.path("out.ndjson");
    let Some(mut receiver) = Receiver::start_v1("foreign", Language::Python, &out, &["foreign"])
    else {
        return;
    };
    write_numbered(&folder.path("input.ndjson"), 100);
    pipeline(&folder, receiver.address, &[], &[], JOURNAL);
    start(&folder).wait().expect(0);
    receiver.wait_for_line("hello false null");
    each_once(&folder, 100);
}

/// An nginx stands between, which is killed and reloaded; so are both sides.
fn kills_through_nginx_repeat_nothing(
    test: &str,
    language: Language,
    start_nginx: fn(&str, SocketAddr) -> Option<Nginx>,
    sink: &[&str],
) {
    let folder = Folder::new();
    let out = folder.path("out.ndjson");
    let Some(mut receiver) = Receiver::start_v1(test, language, &out, &[]) else {
        return;
    };
    let Some(nginx) = start_nginx(test, receiver.address) else {
        return;
    };
    let mut nginx = nginx.with_workers();
    let count = 5000 * (kills() + 1);
    write_numbered(&folder.path("input.ndjson"), count);
    let sink = [&IMPATIENT, sink].concat();
    pipeline(&folder, nginx.address, &["rate: 15000"], &sink, JOURNAL);
    let mut run = start(&folder);
    for kill in 0..kills() {
        let before = received_bytes(&folder);
        wait_until("more records", || {
            received_bytes(&folder) >= before + 100_000
        });
        if kill % 4 == 3 {
            run.kill();
            run = start(&folder);
            continue;
        }
        let breaks = |run: &Process| run.stderr().matches(" lost: ").count();
        let known = breaks(&run);
        match kill % 4 {
            0 => nginx.reload(),
            1 => nginx.restart(),
            _ => receiver.restart(),
        }
        wait_until("a break", || breaks(&run) > known);
    }
    let ended = run.wait().expect(0);
    assert_eq!(ended.account("unconfirmed"), 0, "{}", ended.stderr);
    each_once(&folder, count);
}

#[test]
fn i1_a_receiver_in_node_behind_nginx_takes_each_record_once_through_kills() {
    let test = "behind_nginx_takes_each_record_once";
    kills_through_nginx_repeat_nothing(test, Language::Node, Nginx::start, &[]);
}

#[test]
fn i1_a_receiver_behind_tls_takes_each_record_once_through_kills() {
    let test = "behind_tls_takes_each_record_once";
    let tls = format!("tls: {{ ca: {} }}", certificate().display());
    let sink = [tls.as_str(), "framing: ndjson", "batch: { records: 7 }"];
    kills_through_nginx_repeat_nothing(test, Language::Python, Nginx::start_tls, &sink);
}
