//! Plugins that break in every way (I5): what each costs, and where the record that does it goes.

use std::path::PathBuf;

use wirefall_tests::pipelines::{account, plugin, run};
use wirefall_tests::pushing::{memory_is_flat, memory_is_flat_beside, receive};
use wirefall_tests::records::{all_there, numbered};
use wirefall_tests::{Folder, numbers, wirefall, write_numbered};

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
    costs_one_record_beside(0, does, limits, reason);
}

/// The same where the plugin may have more memory than any run of its own takes.
#[track_caller]
fn costs_one_record_beside(plugin_kib: u64, does: &str, limits: &str, reason: &str) {
    let folder = Folder::new();
    let pipeline = hostile(&folder, does, limits, FAILOVER);
    let ended = run(&pipeline, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    all_but_bad(&ended.stdout);
    memory_is_flat_beside(&ended, plugin_kib);
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
    costs_one_record_beside(
        256 * 1024,
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
    memory_is_flat(&ended);
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
