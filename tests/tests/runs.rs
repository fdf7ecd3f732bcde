//! Whole runs through the real binary: plugins that break in every way (I5), what a failure costs, the
//! account (I2), going on after a stop (I1), and the examples as they are.

use std::io::Write;
use std::path::PathBuf;

use wirefall_tests::pipelines::{account, plugin, run};
use wirefall_tests::pushing::receive;
use wirefall_tests::records::{all_there, numbered};
use wirefall_tests::workspace::root;
use wirefall_tests::{Folder, Process, Signal, numbers, wait_until, wirefall, write_numbered};

/// Records of a run; enough for many batches.
const RECORDS: u64 = 10_000;
/// The record that hostile plugins stumble over, and what they know it by.
const BAD: u64 = 7_777;
const WHEN: &str = "\\\"n\\\":7777,";

/// Writes a pipeline from `input.ndjson` through a hostile plugin to standard output.
fn hostile(folder: &Folder, does: &str, processor: &str, more: &str) -> PathBuf {
    write_numbered(&folder.path("input.ndjson"), RECORDS);
    let plugin = plugin("hostile");
    folder.write(
        "pipeline.yaml",
        format!(
            "service: {{ pipeline_id: test, state: state }}\n\
             source: {{ driver: file, config: {{ path: input.ndjson, resume: false }} }}\n\
             processors:\n\
             - driver: wasm\n  config:\n    plugin: {}\n    config: {{ does: {does}, when: \"{WHEN}\" }}\n{processor}\
             sink: {{ driver: stdout }}\n{more}",
            plugin.display()
        ),
    )
}

const FAILOVER: &str = "failover: { driver: file, config: { path: failed.ndjson } }\n";

#[track_caller]
fn all_but_bad(stdout: &str) {
    let expected: Vec<u64> = (0..RECORDS).filter(|n| *n != BAD).collect();
    assert!(
        numbers(stdout) == expected,
        "every other record, once, in order"
    );
}

/// One record in ten thousand breaks the plugin: it goes to the failover with all that is known of it,
/// the rest goes on.
#[track_caller]
fn costs_one_record(does: &str, limits: &str, reason: &str) {
    let folder = Folder::new();
    let pipeline = hostile(&folder, does, limits, FAILOVER);
    let ended = run(&pipeline, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    all_but_bad(&ended.stdout);
    let account = account(&ended);
    assert_eq!(
        (&account["delivered"], &account["failed_over"]),
        (&9_999.into(), &1.into())
    );
    let failed = folder.read("failed.ndjson");
    let failed: serde_json::Value = serde_json::from_str(&failed).expect("one line of JSON");
    assert_eq!(failed["record"], numbered(BAD));
    assert_eq!(
        (&failed["stage"], &failed["plugin"]),
        (&"format".into(), &"hostile".into())
    );
    assert!(
        failed["digest"]
            .as_str()
            .is_some_and(|digest| digest.starts_with("sha256:"))
    );
    assert_eq!(failed["partition"], "input.ndjson");
    let before: usize = (0..BAD).map(|n| numbered(n).len() + 1).sum();
    assert_eq!(
        failed["position"], before,
        "the byte at which the record starts"
    );
    let told = failed["reason"].as_str().unwrap_or_default();
    assert!(told.contains(reason), "`{reason}` in `{told}`");
}

#[test]
fn i5_a_panic_costs_one_record() {
    costs_one_record("panic", "", "lib.rs");
}

#[test]
fn i5_a_trap_costs_one_record() {
    costs_one_record("trap", "", "trap");
}

#[test]
fn i5_an_exit_costs_one_record() {
    costs_one_record("exit", "", "the plugin called exit");
}

/// A plugin that blames another record than the one it breaks on is not believed.
#[test]
fn i5_a_lie_costs_the_record_that_it_was_told_on() {
    costs_one_record("lie", "", "not me");
}

#[test]
fn i5_an_endless_loop_costs_one_record() {
    costs_one_record("loop", "    limits: { time: 10ms }\n", "time");
}

#[test]
fn i5_memory_without_end_costs_one_record() {
    costs_one_record("grow", "    limits: { memory: 16MiB }\n", "memory");
}

#[test]
fn i5_recursion_without_end_costs_one_record() {
    costs_one_record("stack", "", "trap");
}

#[test]
fn i5_answers_that_do_not_add_up_cost_one_record() {
    for does in [
        "ends_decrease",
        "ends_short",
        "sources_beyond",
        "sources_decrease",
        "keys_missing",
        "reject_and_emit",
        "reject_beyond",
    ] {
        costs_one_record(does, "", "");
    }
}

#[test]
fn i5_output_without_end_costs_one_record() {
    costs_one_record(
        "huge_output",
        "    limits: { output: 1MiB, memory: 256MiB }\n",
        "output",
    );
}

/// A hostile plugin before a WebSocket peer; returns the account and what arrived. The pipeline's sink
/// is the one place where bytes have to be text and keys are seen.
fn hostile_pushed(folder: &Folder, does: &str, sink: &str) -> (serde_json::Value, String) {
    let (_receiver, address) = receive(folder, &[]);
    let pipeline = hostile(folder, does, "", FAILOVER);
    let websocket = format!(
        "sink: {{ driver: websocket, config: {{ url: \"ws://{address}\", proxy: none{sink} }} }}"
    );
    let text = folder.read("pipeline.yaml");
    folder.write(
        "pipeline.yaml",
        text.replace("sink: { driver: stdout }", &websocket),
    );
    let ended = run(&pipeline, &[]).expect(0);
    (account(&ended), folder.read("out.ndjson"))
}

/// It emits bytes that are no text, and then the record: what cannot be framed costs the record both.
#[test]
fn i5_output_that_is_no_text_costs_one_record() {
    let folder = Folder::new();
    let (account, arrived) = hostile_pushed(&folder, "invalid_utf8", "");
    all_but_bad(&arrived);
    let counted = (&account["delivered"], &account["failed_over"]);
    assert_eq!(counted, (&9_999.into(), &1.into()));
    let failed = folder.read("failed.ndjson");
    let failed: serde_json::Value = serde_json::from_str(&failed).expect("one line of JSON");
    assert_eq!(failed["record"], numbered(BAD));
    assert_eq!(failed["stage"], "frame");
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("invalid UTF-8 at byte 0"), "{reason}");
}

/// Two outputs of one record arrive side by side, the one with a key of its own; the record counts once.
#[test]
fn i2_a_record_that_is_emitted_twice_counts_once() {
    let folder = Folder::new();
    let (account, arrived) = hostile_pushed(&folder, "twice", ", envelope: true");
    let counted = (&account["delivered"], &account["failed_over"]);
    assert_eq!(counted, (&10_000.into(), &0.into()));
    let lines = arrived.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("an envelope");
        let number = line["data"]["n"].as_u64().expect("a number");
        (number, line["key"].as_str().map(str::to_owned))
    });
    let expected = (0..RECORDS).flat_map(|number| {
        let own = (number == BAD).then(|| (number, Some("own".to_owned())));
        own.into_iter().chain([(number, None)])
    });
    assert!(lines.eq(expected), "each once, in order, and the one twice");
}

#[test]
fn on_error_drop_counts_and_pass_lets_go() {
    let folder = Folder::new();
    let ended = run(&hostile(&folder, "reject", "    on_error: drop\n", ""), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    all_but_bad(&ended.stdout);
    assert_eq!(account(&ended)["dropped"], 1);
    let ended = run(&hostile(&folder, "reject", "    on_error: pass\n", ""), &[]);
    assert_eq!(all_there(&numbers(&ended.stdout), RECORDS), 0);
    assert_eq!(account(&ended)["passed"], 1);
}

/// Without a failover a reject ends the run, says where, and what is behind it stays with the source.
#[test]
fn i1_on_error_stop_ends_the_run_at_the_record() {
    let folder = Folder::new();
    let ended = run(&hostile(&folder, "reject", "", ""), &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for part in ["hostile", "sha256:", "input.ndjson position"] {
        assert!(ended.stderr.contains(part), "`{part}` in {}", ended.stderr);
    }
    assert!(numbers(&ended.stdout).into_iter().eq(0..BAD));
    assert_eq!(account(&ended)["delivered"], BAD);
    assert!(account(&ended)["unconfirmed"].as_u64() > Some(0));
}

#[test]
fn more_failures_than_tolerated_end_in_a_failed_state() {
    let folder = Folder::new();
    let tolerance = "    tolerance: { failures: 5, window: 100 }\n";
    let pipeline = hostile(&folder, "reject", tolerance, FAILOVER);
    let everything = folder.read("pipeline.yaml").replace(WHEN, "");
    folder.write("pipeline.yaml", everything);
    let ended = run(&pipeline, &[]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stderr
            .contains("more than 5 of the last 100 records failed"),
        "{}",
        ended.stderr
    );
}

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
    assert_eq!(all_there(&numbers(&folder.read("out.ndjson")), read), 0);
}

/// Nobody is there to take the records, and a pipe cannot be read again: they go to the failover.
#[test]
fn i1_what_is_unconfirmed_of_standard_input_goes_to_the_failover() {
    let folder = Folder::new();
    let address = wirefall_tests::peers::free_address();
    let pipeline = folder.write(
        "pipeline.yaml",
        format!(
            "service: {{ pipeline_id: test, shutdown_timeout: 500ms }}\nsource: {{ driver: stdin }}\n\
             sink: {{ driver: websocket, config: {{ url: \"ws://{address}\", proxy: none }} }}\n{FAILOVER}"
        ),
    );
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()]);
    let lines: String = (0..5_000).map(|n| numbered(n) + "\n").collect();
    assert!(run.write(lines.as_bytes()));
    run.close_stdin();
    run.wait_for_line("connect");
    run.signal(Signal::Terminate);
    let ended = run.wait();
    let account = account(&ended);
    assert_eq!(account["failed_over"], account["read"], "{}", ended.stderr);
    let failed = folder.read("failed.ndjson");
    let record = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(line["stage"], "drain");
        line["record"].as_str().expect("text").to_owned() + "\n"
    };
    let kept: String = failed.lines().map(record).collect();
    let read = account["read"].as_u64().expect("a number");
    assert_eq!(all_there(&numbers(&kept), read), 0);
}

/// A run that fails comes to its end, however much more standard input has.
#[test]
fn a_failed_run_ends_although_the_pipe_goes_on() {
    let folder = Folder::new();
    let pipeline = hostile(&folder, "reject", "", "");
    let text = folder.read("pipeline.yaml").replace(WHEN, "");
    let file = "{ driver: file, config: { path: input.ndjson, resume: false } }";
    assert!(text.contains(file));
    folder.write("pipeline.yaml", text.replace(file, "{ driver: stdin }"));
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()]);
    while run.is_running() {
        run.write(folder.read("input.ndjson").as_bytes());
    }
    let ended = run.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    account(&ended);
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
    let mut command = wirefall_tests::process::command(["run".as_ref(), pipeline.as_os_str()]);
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

/// The pipeline of an example, its paths made absolute, on a free port and as fast as it goes.
fn example_file(name: &str, folder: &Folder) -> PathBuf {
    let examples = root().join("examples");
    let text = std::fs::read_to_string(examples.join(name).join("pipeline.yaml")).expect("a file");
    let absolute = |path: &str| root().join(path).display().to_string();
    let text = text
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
        .replace("127.0.0.1:9400", "127.0.0.1:0")
        .replace("rate: 400 ", "rate: 4000 ");
    folder.write("pipeline.yaml", text)
}

fn example(name: &str, folder: &Folder) -> Process {
    wirefall(["run".as_ref(), example_file(name, folder).as_os_str()])
}
