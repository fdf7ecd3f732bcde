//! Standard error that takes nothing: it ends no run, but where it is the failover it stops one.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;

use wirefall_tests::process::{command, wirefall};
use wirefall_tests::pushing::{receive, received};
use wirefall_tests::records::{all_there, write_numbered};
use wirefall_tests::{Folder, pipelines};

const RECORDS: u64 = 2000;

/// The exit code of a run whose standard error is a device that is always full.
fn run_without_words(pipeline: &Path) -> Option<i32> {
    let full = OpenOptions::new().write(true).open("/dev/full");
    let words = ["run", "--log", "trace"].map(AsRef::as_ref);
    let mut run = command(words.into_iter().chain([pipeline.as_os_str()]));
    run.stdin(Stdio::null()).stdout(Stdio::null());
    run.stderr(full.expect("it is there on Linux"));
    run.status().expect("it runs").code()
}

#[test]
fn i1_words_that_nobody_takes_end_no_run() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &["--break-every", "500"]);
    write_numbered(&folder.path("input.ndjson"), RECORDS);
    let pipeline = pipelines::push(&folder, address, &[], &[]);
    assert_eq!(run_without_words(&pipeline), Some(0));
    all_there(&received(&folder), RECORDS);
}

#[test]
fn i1_a_failover_that_nobody_takes_stops_the_run_and_nothing_is_dropped() {
    let folder = Folder::new();
    let (_receiver, address) = receive(&folder, &[]);
    write_numbered(&folder.path("input.ndjson"), RECORDS);
    let source = ["path: input.ndjson".to_owned()];
    // No record fits its frame: each goes to the failover.
    let sink = [format!("url: ws://{address}/"), "frame_max: 64B".to_owned()];
    let failover = "failover: { driver: stderr }\n";
    let pipeline = pipelines::pipeline(&folder, "file", &source, &sink, failover);
    assert_eq!(run_without_words(&pipeline), Some(1));
    // The next run reads them all again, and its failover counts as dropping them.
    let ended = wirefall(["run".as_ref(), pipeline.as_os_str()]).wait();
    let ended = ended.expect(0);
    assert_eq!(ended.account("dropped"), RECORDS, "{}", ended.stderr);
    let told = ended.stderr.matches("does not fit a frame").count();
    assert_eq!(told as u64, RECORDS);
}
