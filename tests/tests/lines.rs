//! The sinks that write lines: files that are rotated, whoever kills the run or took their
//! predecessors away, and a reader of standard output that leaves.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;

use wirefall_tests::process::{Ended, command};
use wirefall_tests::records::{all_there, lines, numbered};
use wirefall_tests::{Folder, Process, Signal, numbers, pipelines, wait_until, wirefall};

const RECORDS: u64 = 40_000;
/// Of a file, before it is rotated: some 600 records.
const ROTATE_BYTES: u64 = 64 * 1024;

/// Writes a pipeline from `input.ndjson` into `out/log.ndjson`, which is rotated.
fn rotating(folder: &Folder) -> PathBuf {
    let sink = "{ path: out/log.ndjson, rotate: 64KiB }";
    to_lines(folder, &format!("{{ driver: file, config: {sink} }}"))
}

fn to_lines(folder: &Folder, sink: &str) -> PathBuf {
    folder.write("input.ndjson", lines(0..RECORDS));
    let text = format!(
        "service: {{ pipeline_id: test, state: state }}\n\
         source: {{ driver: file, config: {{ path: input.ndjson }} }}\nsink: {sink}\n"
    );
    folder.write("pipeline.yaml", text)
}

/// The files of `out`, those that are full by their numbers, and the open one at the end.
fn written(folder: &Folder) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder.path("out")).into_iter().flatten();
    let name = |entry: std::fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    let mut names: Vec<String> = entries
        .map(|entry| name(entry.expect("an entry")))
        .collect();
    names.sort_unstable();
    let read = |name: String| (folder.read(&format!("out/{name}")), name);
    let files = names.into_iter().map(read);
    files.map(|(text, name)| (name, text)).collect()
}

/// Numbers go on behind those that are there, although some were taken away, and no file is touched that
/// is there already; nor does it matter that a crash left no open file.
#[test]
fn i3_files_are_rotated_behind_those_that_are_there() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("out")).expect("a folder");
    folder.write("out/log.000003.ndjson", "not ours\n");
    let pipeline = rotating(&folder);
    let ended = wirefall(["run".as_ref(), pipeline.as_os_str()]).wait();
    assert_eq!(ended.expect(0).account("delivered"), RECORDS);
    let files = written(&folder);
    assert_eq!(files[0].0, "log.000003.ndjson");
    assert_eq!(files[0].1, "not ours\n");
    let (open, full) = files[1..].split_last().expect("an open file");
    assert_eq!(open.0, "log.ndjson");
    for ((name, text), number) in full.iter().zip(4..) {
        assert_eq!(name, &format!("log.{number:06}.ndjson"));
        let bytes = text.len() as u64;
        let full = ROTATE_BYTES - 120..=ROTATE_BYTES;
        assert!(full.contains(&bytes), "{name} has {bytes} bytes");
    }
    let all: String = files[1..].iter().map(|(_, text)| text.as_str()).collect();
    assert!(all == lines(0..RECORDS), "each once, whole, in order");
}

/// Killed while it writes and rotates, it goes on with the next run: each record is there, whole, in
/// order, those at least that were not confirmed once more (it says "at least once"), and what a kill cut
/// in two is a line of its own.
#[test]
fn i1_kills_while_files_are_rotated_lose_no_line() {
    const KILLS: usize = 5;
    let folder = Folder::new();
    let pipeline = rotating(&folder);
    let words = ["run".as_ref(), pipeline.as_os_str()];
    for kill in 1..=KILLS {
        let run = wirefall(words);
        let before = written(&folder).len();
        wait_until("files that are rotated", || {
            written(&folder).len() > before + kill
        });
        run.signal(Signal::Kill);
        assert_eq!(run.wait().code, None, "it was killed in mid-run");
    }
    let ended = wirefall(words).wait().expect(0);
    assert!(ended.stderr.contains("at least once"), "{}", ended.stderr);
    let files = written(&folder);
    let all: String = files.iter().map(|(_, text)| text.as_str()).collect();
    let is_record = |line: &&str| {
        let number = line
            .strip_prefix("{\"n\":")
            .and_then(|rest| rest.split_once(','));
        number.is_some_and(|(number, _)| *line == numbered(number.parse().unwrap_or(0)))
    };
    let (records, torn): (Vec<&str>, Vec<&str>) = all.lines().partition(is_record);
    assert!(torn.len() <= KILLS, "{torn:?}");
    all_there(&numbers(&(records.join("\n") + "\n")), RECORDS);
}

/// Runs a command whose standard output is read for three lines, as `| head -n 3` does, and does
/// something else meanwhile.
fn to_a_reader_who_leaves(mut command: Command, mut meanwhile: impl FnMut()) -> Ended {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut process = Process::start_writing(command.stdout(writer));
    drop(command); // the writer's other handle
    let reading = std::thread::spawn(move || BufReader::new(reader).lines().take(3).count());
    wait_until("three lines", || {
        meanwhile();
        reading.is_finished()
    });
    assert_eq!(reading.join().expect("no panic"), 3);
    wait_until("its end", || {
        meanwhile();
        !process.is_running()
    });
    process.wait()
}

/// Nobody can confirm what nobody reads: the run fails, and the next one has the rest.
#[test]
fn i1_a_reader_of_the_stdout_sink_who_leaves_ends_the_run_with_records_unconfirmed() {
    let folder = Folder::new();
    let pipeline = to_lines(&folder, "{ driver: stdout }");
    let run = || command(["run".as_ref(), pipeline.as_os_str()]);
    let ended = to_a_reader_who_leaves(run(), || ()).expect(1);
    assert!(ended.stderr.contains("Broken pipe"), "{}", ended.stderr);
    assert!(ended.account("unconfirmed") > 0, "{}", ended.stderr);
    let taken = ended.account("delivered");
    let rest = Process::start(&mut run()).wait().expect(0);
    assert!(numbers(&rest.stdout).into_iter().eq(taken..RECORDS));
}

/// A reader who leaves has seen what he wanted: `subscribe` owes nobody anything.
#[test]
fn a_reader_of_subscribe_who_leaves_ends_it_well() {
    let folder = Folder::new();
    let pipeline = pipelines::publish(&folder, &[]);
    let mut run = wirefall(["run".as_ref(), pipeline.as_os_str()]);
    let url = run.wait_for_line("stream ");
    let mut sent = 0;
    let subscribe = command(["subscribe", &url]);
    let ended = to_a_reader_who_leaves(subscribe, || {
        sent += 1;
        assert!(run.write((numbered(sent) + "\n").as_bytes()));
    });
    ended.expect(0);
}
