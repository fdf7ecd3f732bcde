//! A log that is followed while it is rotated, through the real binary: whatever is killed when, every
//! line arrives (I1), in its order (I3).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use wirefall_tests::records::{all_there, numbered};
use wirefall_tests::{Folder, Process, Signal, numbers, pipelines, wait_until, wirefall};

/// Records of one file of the log.
const RECORDS: u64 = 500;
/// Files of the log.
const FILES: u64 = 6;

fn append(path: &Path, from: u64, to: u64) {
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("the log");
    for number in from..to {
        writeln!(log, "{}", numbered(number)).expect("written");
    }
}

fn has_arrived(folder: &Folder, count: u64) {
    wait_until("the end of the last file", || {
        numbers(&folder.read("out")).last() == Some(&(count - 1))
    });
}

fn start(pipeline: &Path) -> Process {
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    run.wait_for_line("stop ");
    run
}

#[test]
fn i1_a_log_that_is_rotated_while_runs_are_killed_arrives_whole() {
    let folder = Folder::new();
    let out = folder.path("out");
    let mut receiver = wirefall([
        "receive",
        "127.0.0.1:0",
        "--out",
        out.to_str().expect("UTF-8"),
    ]);
    let address = receiver.wait_for_line("receiving on ws://");
    let address = address.split(',').next().expect("an address");
    let address = address.parse().expect("an address");
    let pipeline = pipelines::push(&folder, address, &["follow: true"], &[]);
    let log = folder.path("input.ndjson");
    append(&log, 0, RECORDS / 2);
    let mut run = start(&pipeline);
    for file in 0..FILES {
        let begin = file * RECORDS;
        has_arrived(&folder, begin + RECORDS / 2);
        let is_killed = file % 2 == 1;
        if is_killed {
            run.signal(Signal::Kill);
            wait_until("its end", || !run.is_running());
            append(&log, begin + RECORDS / 2, begin + RECORDS);
        }
        fs::rename(&log, folder.path(&format!("input.ndjson.{file}"))).expect("renamed");
        if !is_killed {
            // Who writes has the old file open for a while.
            let old = folder.path(&format!("input.ndjson.{file}"));
            append(&old, begin + RECORDS / 2, begin + RECORDS);
        }
        append(&log, begin + RECORDS, begin + RECORDS + RECORDS / 2);
        if is_killed {
            run = start(&pipeline);
        }
    }
    let count = FILES * RECORDS + RECORDS / 2;
    has_arrived(&folder, count);
    run.signal(Signal::Terminate);
    run.wait().expect(0);
    all_there(&numbers(&folder.read("out")), count);
}

#[test]
fn a_log_that_is_cut_is_told_of_and_read_from_its_beginning() {
    let folder = Folder::new();
    let input = folder.write("input.ndjson", "one\ntwo\n");
    let pipeline = folder.write(
        "pipeline.yaml",
        "service: { pipeline_id: test, state: state }\n\
         source: { driver: file, config: { path: input.ndjson, follow: true } }\n\
         sink: { driver: stdout }\n",
    );
    let mut run = start(&pipeline);
    run.wait_for_line("two");
    fs::write(&input, "three\n").expect("written");
    run.wait_for_line("the file was cut");
    run.wait_for_line("three");
    run.signal(Signal::Terminate);
    let ended = run.wait().expect(0);
    assert_eq!(ended.stdout, "one\ntwo\nthree\n");
    assert_eq!(ended.account("delivered"), 3);
}
