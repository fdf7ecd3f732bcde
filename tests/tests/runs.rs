//! Whole runs through the real binary: going on after a stop (I1), standard input, odd lines, and what
//! stands between a pipeline and its peer.

use std::io::Write;
use std::path::PathBuf;

use wirefall_tests::pipelines::{account, run};
use wirefall_tests::records::{all_there, numbered};
use wirefall_tests::{Folder, Signal, numbers, wait_until, wirefall, write_numbered};

const FAILOVER: &str = "failover: { driver: file, config: { path: failed.ndjson } }\n";

/// A source that can be read again goes on after what was confirmed; `--fresh` starts over.
#[test]
fn i1_the_next_run_goes_on_where_the_last_one_was_confirmed() {
    let folder = Folder::new();
    write_numbered(&folder.path("input.ndjson"), 100);
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: test }\nsource: { driver: file, config: { path: input.ndjson } }\n\
         sink: { driver: stdout }\n",
    );
    assert_eq!(numbers(&run(&pipeline, &[]).stdout).len(), 100);
    write_numbered(&folder.path("input.ndjson"), 150);
    assert_eq!(
        numbers(&run(&pipeline, &[]).stdout),
        (100..150).collect::<Vec<_>>()
    );
    assert!(numbers(&run(&pipeline, &[]).stdout).is_empty());
    assert_eq!(numbers(&run(&pipeline, &["--fresh"]).stdout).len(), 150);
}

/// Two runs that share positions would each skip what the other has read.
#[test]
fn a_second_run_of_the_same_pipeline_is_refused() {
    let folder = Folder::new();
    write_numbered(&folder.path("input.ndjson"), 10);
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: test }\n\
         source: { driver: file, config: { path: input.ndjson, follow: true } }\n\
         sink: { driver: file, config: { path: out.ndjson } }\n",
    );
    let first = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    wait_until("the first run", || !folder.read("out.ndjson").is_empty());
    let second = wirefall(["run".as_ref(), pipeline.as_os_str()])
        .wait()
        .expect(3);
    let said = "another run of this pipeline is at work";
    assert!(second.stderr.contains(said), "{}", second.stderr);
    first.signal(Signal::Kill);
    first.wait();
    // The lock ends with the process, however it ends.
    let third = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    let mut input = std::fs::File::options()
        .append(true)
        .open(folder.path("input.ndjson"))
        .expect("a file");
    writeln!(input, "{}", numbered(10)).expect("written");
    wait_until("the third run", || {
        numbers(&folder.read("out.ndjson")).contains(&10)
    });
    third.signal(Signal::Terminate);
    third.wait().expect(0);
}

/// What was taken from a pipe is sent before the run ends, although nobody closed the pipe.
#[test]
fn i1_a_signal_sends_what_was_read_from_standard_input() {
    for signal in [Signal::Terminate, Signal::HangUp] {
        sends_what_was_read(signal);
    }
}

fn sends_what_was_read(signal: Signal) {
    let folder = Folder::new();
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: test }\nsource: { driver: stdin }\nsink: { driver: file, config: { path: out.ndjson } }\n",
    );
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()]);
    let lines: String = (0..5_000).map(|n| numbered(n) + "\n").collect();
    assert!(run.write(lines.as_bytes()));
    wait_until("the first records", || {
        !folder.read("out.ndjson").is_empty()
    });
    run.signal(signal);
    let ended = run.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let read = account(&ended)["read"].as_u64().expect("a number");
    what_was_read_is_there(&folder.read("out.ndjson"), read);
}

/// So many records, each once and whole, although the stop may have come in the middle of a line.
#[track_caller]
fn what_was_read_is_there(text: &str, read: u64) {
    assert!(
        text.ends_with(&format!("{}\n", numbered(read - 1))),
        "{read} records"
    );
    assert_eq!(all_there(&numbers(text), read), 0);
}

/// Nobody is there to take the records, and a pipe cannot be read again: they go to the failover, and the
/// run has done what it was asked (exit code 0); without one they are lost with the process, and it says
/// how many (1).
#[test]
fn i1_what_is_unconfirmed_of_standard_input_goes_to_the_failover() {
    for (failover, code, place) in [(FAILOVER, 0, "failed_over"), ("", 1, "unconfirmed")] {
        let folder = Folder::new();
        let address = wirefall_tests::peers::free_address();
        let pipeline = folder.write(
            "pipeline.yaml",
            format!(
                "service: {{ pipeline_id: test, shutdown_timeout: 500ms }}\nsource: {{ driver: stdin }}\n\
                 sink: {{ driver: websocket, config: {{ url: \"ws://{address}\", proxy: none }} }}\n{failover}"
            ),
        );
        let mut run = wirefall(["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()]);
        let lines: String = (0..5_000).map(|n| numbered(n) + "\n").collect();
        assert!(run.write(lines.as_bytes()));
        run.close_stdin();
        run.wait_for_line("connect");
        run.signal(Signal::Terminate);
        let ended = run.wait().expect(code);
        let account = account(&ended);
        let read = account["read"].as_u64().expect("a number");
        assert!(read > 0, "{account}");
        assert_eq!(account[place], read, "{}", ended.stderr);
        if !failover.is_empty() {
            what_was_read_is_there(&drained(&folder.read("failed.ndjson")), read);
        }
    }
}

/// The records of a failover file, which went there at the end of a run.
fn drained(failed: &str) -> String {
    let record = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(line["stage"], "drain");
        line["record"].as_str().expect("text").to_owned() + "\n"
    };
    failed.lines().map(record).collect()
}

#[test]
fn a_repeated_file_without_records_ends_the_run() {
    let folder = Folder::new();
    folder.write("input.ndjson", "\n\n");
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: test }\n\
         source: { driver: file, config: { path: input.ndjson, repeat: true } }\n\
         sink: { driver: stdout }\n",
    );
    assert_eq!(run(&pipeline, &[]).code, Some(0));
}

#[test]
fn odd_lines_are_counted_or_told() {
    let folder = Folder::new();
    let pipeline = |line_max: &str, failover: &str| {
        folder.write(
            "pipeline.yaml",
            format!(
                "service: {{ pipeline_id: test }}\n\
                 source: {{ driver: stdin, config: {{ line_max: {line_max} }} }}\n\
                 sink: {{ driver: websocket, config: {{ listen: 127.0.0.1:0, at_end: exit }} }}\n{failover}"
            ),
        )
    };
    let feed = |pipeline: PathBuf, bytes: &[u8]| {
        let mut run = wirefall(["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()]);
        run.write(bytes);
        run.wait()
    };
    let ended = feed(pipeline("1KiB", FAILOVER), b"{}\n\n\r\n\xff\n{\"last\":1}");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let counted = account(&ended);
    assert_eq!(counted["published"], 2);
    assert_eq!(
        counted["failed_over"], 1,
        "invalid UTF-8 does not fit a text frame"
    );
    assert_eq!(counted["invalid_utf8"], 1);
    assert_eq!(counted["empty_lines"], 2);
    assert_eq!(counted["unended_lines"], 1);
    assert!(
        folder
            .read("failed.ndjson")
            .contains("\"record_base64\":\"/w==\"")
    );

    let ended = feed(pipeline("1KiB", ""), &[b'x'; 100_000]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("`line_max`"), "{}", ended.stderr);
}

#[test]
fn the_playground_ends_at_its_limit() {
    let folder = Folder::new();
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: 7 }\n\
         source:\n  driver: playground\n  config: { data_type: market, publish_interval: 0.001, limit: 20 }\n  \
         stream_schema: [{ stream: market, columns: [{ name: record_id, data_type: Integer }] }]\n\
         sink: { driver: stdout }\n",
    );
    let ended = run(&pipeline, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let expected: String = (1..=20)
        .map(|n| format!("{{\"record_id\":{n}}}\n"))
        .collect();
    assert_eq!(ended.stdout, expected);
}

/// What stands between a pipeline and its peer, layer by layer.
#[test]
fn check_connect_names_the_layer_that_fails() {
    let folder = Folder::new();
    let connect = |address: &str| {
        let pipeline = folder.write(
            "pipeline.yaml",
            format!(
                "service: {{ pipeline_id: test }}\nsource: {{ driver: stdin }}\n\
                 sink: {{ driver: websocket, config: {{ url: \"ws://{address}\", proxy: none }} }}\n"
            ),
        );
        wirefall(["check".as_ref(), pipeline.as_os_str(), "--connect".as_ref()]).wait()
    };
    let receive = |flags: &[&str]| {
        let mut receiver = wirefall([&["receive", "127.0.0.1:0"], flags].concat());
        let line = receiver.wait_for_line("receiving on ws://");
        let address = line.split(',').next().expect("an address").to_owned();
        (receiver, address)
    };
    // No query can hold a label of more than 63 characters, so nobody is asked.
    let ended = connect(&format!("{}.invalid:9500", "a".repeat(64)));
    assert_eq!(ended.code, Some(3));
    assert!(ended.stdout.contains("failed dns"), "{}", ended.stdout);
    let ended = connect(&wirefall_tests::peers::free_address().to_string());
    assert_eq!(ended.code, Some(3));
    assert!(ended.stdout.contains("failed tcp"), "{}", ended.stdout);
    let (_refusing, address) = receive(&["--status", "403"]);
    let ended = connect(&address);
    assert_eq!(ended.code, Some(3));
    assert!(ended.stdout.contains("failed http"), "{}", ended.stdout);
    assert!(ended.stdout.contains("403"), "{}", ended.stdout);
    let (_good, address) = receive(&[]);
    let ended = connect(&address);
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    assert!(ended.stdout.contains("ok     ping"), "{}", ended.stdout);
}

/// For a machine: an object a finding, an object for what is right, and an object where nothing was run.
#[test]
fn json_is_an_object_a_line() {
    let folder = Folder::new();
    let objects = |text: &str| -> Vec<serde_json::Value> {
        let lines = text.lines().map(serde_json::from_str);
        lines
            .map(|line| line.unwrap_or_else(|error| panic!("{error}: {text}")))
            .collect()
    };
    let wrong = folder.write(
        "wrong.yaml",
        "service: { pipeline_id: test, batch_sise: 5 }\nsource: { driver: stdni }\n\
         sink: { driver: stdout }\n",
    );
    let ended = wirefall(["--json".as_ref(), "check".as_ref(), wrong.as_os_str()]).wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(2), ""));
    let found = objects(&ended.stdout);
    assert_eq!(found.len(), 2, "{}", ended.stdout);
    for (one, line) in found.iter().zip([1, 2]) {
        assert_eq!(
            (&one["severity"], &one["line"]),
            (&"error".into(), &line.into())
        );
        assert!(
            one["message"].is_string() && one["column"].is_u64(),
            "{one}"
        );
        assert!(
            one["help"]
                .as_str()
                .is_some_and(|help| help.contains("did you mean")),
            "{one}"
        );
    }
    let right = folder.write(
        "right.yaml",
        "service: { pipeline_id: test }\nsource: { driver: file, config: { path: none } }\n\
         sink: { driver: stdout }\n",
    );
    let ended = wirefall(["--json".as_ref(), "check".as_ref(), right.as_os_str()]).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(objects(&ended.stdout)[0]["pipeline"], "test");
    let none = folder.path("none.wasm");
    let none = none.as_os_str();
    for (verb, path) in [
        ("run", right.as_os_str()),
        ("inspect", none),
        ("build", none),
        ("test", none),
    ] {
        let ended = wirefall(["--json".as_ref(), verb.as_ref(), path]).wait();
        assert!(
            ended.code.is_some_and(|code| code > 0),
            "{verb}: {:?}",
            ended.code
        );
        let told = objects(&ended.stderr);
        let last = told.last().unwrap_or_else(|| panic!("{verb} says nothing"));
        assert!(last["error"].is_string(), "{verb}: {last}");
    }
}

/// What is wrong with the arguments is an object too, and a filter that would silence the log is refused.
#[test]
fn wrong_arguments_are_told_as_the_rest_is() {
    for arguments in [
        &["--json", "run"][..],
        &["--json", "run", "none.yaml", "--log", "inf0"],
        &["rum", "--json"],
    ] {
        let ended = wirefall(arguments).wait().expect(2);
        let told: serde_json::Value = serde_json::from_str(&ended.stderr).expect("one object");
        assert!(told["error"].is_string(), "{told}");
    }
    let ended = wirefall(["run", "none.yaml", "--log", "warn,wirefall=debug,inf0"]).wait();
    let ended = ended.expect(2);
    assert!(
        ended.stderr.contains("`inf0` is no level"),
        "{}",
        ended.stderr
    );
    let ended = wirefall(["--json", "run", "--help"]).wait().expect(0);
    assert!(
        ended.stdout.contains("Usage: wirefall run"),
        "{}",
        ended.stdout
    );
}
