//! Where a run stops: at a signal, or at the record that the configuration says it is not to pass. What
//! comes before that is delivered, and the next run begins there (I1).

use std::path::PathBuf;

use wirefall_tests::pipelines::{account, plugin, run};
use wirefall_tests::{Folder, Signal, numbers, wait_until, wirefall, write_numbered};

const RECORDS: u64 = 2000;
/// The record that the plugin rejects.
const BAD: u64 = 777;

/// Writes a pipeline through a plugin that rejects the records in which it finds `when`.
fn rejecting(folder: &Folder, when: &str, on_error: &str, more: &str) -> PathBuf {
    folder.write(
        "pipeline.yaml",
        format!(
            "service: {{ pipeline_id: test, state: state }}\n\
             source: {{ driver: file, config: {{ path: input.ndjson }} }}\n\
             processors:\n- driver: wasm\n  config:\n    plugin: {}\n    \
               config: {{ does: reject, when: {when:?} }}\n    {on_error}\n\
             sink: {{ driver: stdout }}\n{more}",
            plugin("hostile").display()
        ),
    )
}

const FAILOVER: &str = "failover: { driver: file, config: { path: failed.ndjson } }\n";

/// Lines that wait for a batch to fill are sent when the run is to stop, however long they might wait.
#[test]
fn i1_a_signal_sends_lines_that_wait_for_their_batch() {
    let folder = Folder::new();
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: test, batch_wait: 1h }\nsource: { driver: stdin }\n\
         sink: { driver: stdout }\n",
    );
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str(), "--json".as_ref()]);
    assert!(run.write(b"one\ntwo\nthree\n"));
    wait_until("the lines are taken", || run.unread() == 0);
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(0);
    assert_eq!(ended.stdout, "one\ntwo\nthree\n");
    assert_eq!(account(&ended)["delivered"], 3);
}

/// Each run stops at the same record until somebody says what is to become of it; then nothing is
/// missing and nothing came twice.
#[test]
fn i1_the_run_after_a_stop_begins_at_the_record_that_stopped_it() {
    let folder = Folder::new();
    write_numbered(&folder.path("input.ndjson"), RECORDS);
    let when = format!("\"n\":{BAD},");
    let stop = rejecting(&folder, &when, "on_error: stop", FAILOVER);
    let first = run(&stop, &[]).expect(1);
    assert!(numbers(&first.stdout).into_iter().eq(0..BAD));
    assert!(
        first.stderr.contains("say `on_error: failover`"),
        "{}",
        first.stderr
    );
    let second = run(&stop, &[]).expect(1);
    assert_eq!(second.stdout, "");
    assert_eq!(account(&second)["delivered"], 0);
    let failover = rejecting(&folder, &when, "on_error: failover", FAILOVER);
    let third = run(&failover, &[]).expect(0);
    assert!(numbers(&third.stdout).into_iter().eq(BAD + 1..RECORDS));
    assert_eq!(folder.read("failed.ndjson").lines().count(), 1);
}

/// A failure counts towards the tolerance whatever becomes of its record.
#[test]
fn i1_more_failures_than_tolerated_end_the_run_at_the_one_too_many() {
    for (on_error, kept) in [("failover", 0), ("drop", 0), ("pass", 5)] {
        let folder = Folder::new();
        write_numbered(&folder.path("input.ndjson"), RECORDS);
        // 0, 100, 200 and so on.
        let processor =
            format!("on_error: {on_error}\n    tolerance: {{ failures: 5, window: 1000 }}");
        let pipeline = rejecting(&folder, "00,", &processor, FAILOVER);
        let ended = run(&pipeline, &[]).expect(1);
        let said = "more than 5 of the last 1000 records failed";
        assert!(ended.stderr.contains(said), "{on_error}: {}", ended.stderr);
        let delivered = numbers(&ended.stdout);
        let bad = |n: u64| n > 0 && n.is_multiple_of(100);
        let expected = (0..600).filter(|n| kept > 0 || !bad(*n));
        assert!(delivered.iter().copied().eq(expected), "{on_error}");
        assert_eq!(account(&ended)["passed"], kept, "{on_error}");
    }
}
