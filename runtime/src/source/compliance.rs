//! The compliance test that every source passes: what the pipeline relies on, checked on each.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{
    BatchLimits, DRIVERS, Oddities, Source, SourceContext, SourceError, SourcePlan, stdin,
};
use crate::checkpoint::{Checkpoint, Delta};
use crate::driver::Facts;
use crate::metrics::Metrics;
use crate::port::gate::Credentials;
use crate::record::Partition;

/// Longest wait for a batch; only a broken source meets it.
const PATIENCE: Duration = Duration::from_secs(20);

const LIMITS: BatchLimits = BatchLimits {
    records_max: 10,
    bytes_max: 1 << 16,
    wait: Duration::from_millis(5),
};

pub(super) fn plan(driver: &str, config: Value, folder: &Path) -> Box<dyn SourcePlan> {
    let driver = DRIVERS
        .iter()
        .find(|entry| entry.name == driver)
        .expect("a driver of the table");
    let facts = Facts {
        folder: folder.to_owned(),
        ..Facts::default()
    };
    (driver.check)(config, &facts).expect("a config that fits")
}

pub(super) async fn open(plan: &dyn SourcePlan, folder: &Path) -> Source {
    open_at(plan, folder, None).await
}

/// Opens it with what a journal holds.
pub(super) async fn open_at(
    plan: &dyn SourcePlan,
    folder: &Path,
    resume_at: Option<Checkpoint>,
) -> Source {
    open_counted(plan, folder, resume_at, Arc::default()).await
}

/// The same, with what it counts.
pub(super) async fn open_counted(
    plan: &dyn SourcePlan,
    folder: &Path,
    resume_at: Option<Checkpoint>,
    metrics: Arc<Metrics>,
) -> Source {
    let context = SourceContext {
        limits: LIMITS,
        state_dir: folder.join("state"),
        credentials: Credentials::of(&folder.join("state")),
        fresh: false,
        resume_at,
        reread: Arc::new(|| Err("unused".to_owned())),
        metrics,
    };
    plan.open(context).await.expect("it opens")
}

fn at(partition: &str, position: u64) -> Option<Checkpoint> {
    let mut checkpoint = Checkpoint::default();
    checkpoint.start_at(Partition::new(partition), position);
    Some(checkpoint)
}

/// The journal goes before what the file source remembers, further on as well as further back; what
/// was never committed is known of all the same.
#[tokio::test]
async fn i1_a_file_begins_where_the_journal_is() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("in"), &rows(0, 9));
    let plan = plan("file", json!({"path": "in"}), folder.path());
    let row = rows(0, 1)[0].len() as u64 + 1;
    let mut first = open_at(&*plan, folder.path(), Some(Checkpoint::default())).await;
    assert_eq!(read(&mut first, 3).await.0.len(), 9);
    drop(first); // as a crash does: nothing was committed
    for (journal, committed) in [(5, 3), (2, 4), (4, 9), (9, 9)] {
        let resume_at = at("in", journal * row);
        let mut source = open_at(&*plan, folder.path(), resume_at).await;
        assert_eq!(
            source.start.position(&Partition::new("in")),
            Some(journal * row)
        );
        let (records, _) = read(&mut source, 9).await;
        assert_eq!(records, rows(journal as usize, 9), "{journal}");
        let committed = at("in", committed * row).unwrap();
        source.committer.commit(&committed).await.unwrap();
    }
}

/// A file of which nothing is remembered may be another one than the journal knows of: it is read whole.
#[tokio::test]
async fn i1_a_file_that_nobody_knows_is_read_whole_and_positions_go_on() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("in"), &rows(0, 9));
    let plan = plan("file", json!({"path": "in"}), folder.path());
    let mut source = open_at(&*plan, folder.path(), at("in", 16)).await;
    let (records, checkpoint) = read(&mut source, 9).await;
    assert_eq!(records, rows(0, 9));
    assert_eq!(checkpoint.position(&Partition::new("in")), Some(16 + 9 * 8));
}

#[tokio::test]
async fn sources_that_cannot_go_back_count_on_from_where_the_journal_is() {
    let made = json!({"data_type": "market", "publish_interval": 0.001, "limit": 3});
    let plan = plan("playground", made, Path::new("."));
    let mut source = open_at(&*plan, Path::new("/nonexistent"), at("playground", 7)).await;
    let (records, checkpoint) = read(&mut source, 10).await;
    assert_eq!(records.len(), 3);
    assert_eq!(checkpoint.position(&Partition::new("playground")), Some(10));
    let (input, mut output) = std::io::pipe().unwrap();
    output.write_all(b"a\nb\n").unwrap();
    drop(output);
    let stdin: stdin::Config = serde_json::from_value(json!({})).unwrap();
    let source = stdin.read_from(File::from(OwnedFd::from(input)), LIMITS, 100);
    let (records, checkpoint) = read(&mut source.unwrap(), 10).await;
    assert_eq!(records, ["a", "b"]);
    assert_eq!(checkpoint.position(&Partition::new("stdin")), Some(104));
}

/// Reads up to `records_max` records; checks batches, positions and order on the way.
pub(super) async fn read(source: &mut Source, records_max: usize) -> (Vec<String>, Checkpoint) {
    let mut checkpoint = source.start.clone();
    let records = read_on(source, records_max, &mut checkpoint).await;
    (records, checkpoint)
}

pub(super) async fn read_on(
    source: &mut Source,
    records_max: usize,
    checkpoint: &mut Checkpoint,
) -> Vec<String> {
    let (records, failed) = read_until(source, records_max, checkpoint).await;
    assert!(failed.is_none(), "{failed:?}");
    records
}

/// Like [`read_on`], up to an error.
async fn read_until(
    source: &mut Source,
    records_max: usize,
    checkpoint: &mut Checkpoint,
) -> (Vec<String>, Option<SourceError>) {
    let mut records = Vec::new();
    while records.len() < records_max {
        let next = tokio::time::timeout(PATIENCE, source.reader.next()).await;
        let batch = match next.expect("a batch or an end within the patience") {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => return (records, Some(error)),
        };
        assert!(
            !batch.records.is_empty() && batch.records.len() <= 10,
            "bounded, never empty"
        );
        assert_eq!(batch.records.len(), batch.positions.len());
        assert!(batch.positions.is_sorted() && batch.start <= batch.positions[0]);
        let delta = Delta {
            partition: batch.partition.clone(),
            from: batch.start,
            to: batch.end(),
        };
        checkpoint
            .settle(&delta)
            .expect("batches of a partition join without gap or overlap");
        assert_eq!(
            checkpoint.position(&batch.partition),
            Some(batch.end()),
            "no gap"
        );
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        records.extend(batch.records.payloads.iter().map(text));
    }
    (records, None)
}

/// A replayable source goes on exactly after what was committed, and again after a second time.
async fn check_replay(driver: &str, config: Value, folder: &Path, expected: &[String]) {
    let plan = plan(driver, config, folder);
    assert!(plan.replayable());
    let mut seen = Vec::new();
    loop {
        let mut source = open(&*plan, folder).await;
        let (records, mut checkpoint) = read(&mut source, 25).await;
        source
            .committer
            .commit(&checkpoint)
            .await
            .expect("it commits");
        let uncommitted = read_on(&mut source, 10, &mut checkpoint).await;
        seen.extend(records.iter().cloned());
        if records.is_empty() {
            assert!(uncommitted.is_empty());
            break;
        }
    }
    assert_eq!(seen, expected);
}

pub(super) fn rows(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| json!({ "n": n }).to_string()).collect()
}

fn write(path: &Path, rows: &[String]) {
    std::fs::write(path, rows.join("\n") + "\n").expect("a file is written");
}

#[tokio::test]
async fn file_goes_on_where_it_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("in.ndjson"), &rows(0, 100));
    check_replay(
        "file",
        json!({"path": "in.ndjson"}),
        folder.path(),
        &rows(0, 100),
    )
    .await;
}

#[tokio::test]
async fn files_of_a_glob_are_read_in_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("b.ndjson"), &rows(50, 100));
    write(&folder.path().join("a.ndjson"), &rows(0, 50));
    check_replay(
        "file",
        json!({"path": "*.ndjson"}),
        folder.path(),
        &rows(0, 100),
    )
    .await;
}

#[tokio::test]
async fn brackets_in_the_name_of_a_folder_or_of_a_file_that_is_there_are_no_glob() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("of [1] and *");
    std::fs::create_dir(&folder).unwrap();
    for name in ["x[1.ndjson", "y[ab].ndjson", "ya.ndjson"] {
        std::fs::write(folder.join(name), format!("{name}\n")).unwrap();
    }
    for (path, expected) in [
        ("x[1.ndjson", &["x[1.ndjson"][..]),
        ("y[ab].ndjson", &["y[ab].ndjson"]),
        ("y?.ndjson", &["ya.ndjson"]),
        ("y*", &["y[ab].ndjson", "ya.ndjson"]),
    ] {
        let plan = plan("file", json!({"path": path, "resume": false}), &folder);
        let mut source = open(&*plan, &folder).await;
        assert_eq!(read(&mut source, 10).await.0, expected, "{path}");
        assert!(plan.reads(&folder.join(expected[0])), "{path}");
    }
}

#[tokio::test]
async fn a_file_is_given_out_at_its_rate() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("in"), &rows(0, 100));
    let plan = plan("file", json!({"path": "in", "rate": 500}), folder.path());
    let mut source = open(&*plan, folder.path()).await;
    let started = std::time::Instant::now();
    assert_eq!(read(&mut source, 100).await.0, rows(0, 100));
    // The first comes at once; how much longer it may take hangs on the machine.
    let least = Duration::from_millis(2) * 99;
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
}

#[tokio::test]
async fn packed_files_are_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let plain = rows(0, 60).join("\n");
    let gz = std::fs::File::create(folder.path().join("a.gz")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(gz, flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, plain.as_bytes()).unwrap();
    gz.finish().unwrap();
    check_replay("file", json!({"path": "a.gz"}), folder.path(), &rows(0, 60)).await;
    let zst = zstd::encode_all(plain.as_bytes(), 1).unwrap();
    std::fs::write(folder.path().join("b.zst"), zst).unwrap();
    check_replay(
        "file",
        json!({"path": "b.zst"}),
        folder.path(),
        &rows(0, 60),
    )
    .await;
}

#[tokio::test]
async fn another_file_of_the_same_name_starts_at_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    write(&path, &rows(0, 20));
    check_replay("file", json!({"path": "in"}), folder.path(), &rows(0, 20)).await;
    write(&path, &rows(1000, 1020));
    check_replay(
        "file",
        json!({"path": "in"}),
        folder.path(),
        &rows(1000, 1020),
    )
    .await;
}

#[tokio::test]
async fn a_repeated_file_keeps_its_positions_rising() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), rows(0, 7).join("\n") + "\n\n\n").unwrap();
    let plan = plan("file", json!({"path": "in", "repeat": 3}), folder.path());
    let mut source = open(&*plan, folder.path()).await;
    let (records, _) = read(&mut source, 100).await;
    assert_eq!(records.len(), 21);
}

/// Standard input as a pipe whose other end is returned.
fn stdin(config: Value) -> (Source, PipeWriter) {
    let (input, output) = std::io::pipe().unwrap();
    let config: stdin::Config = serde_json::from_value(config).unwrap();
    let source = config.read_from(File::from(OwnedFd::from(input)), LIMITS, 0);
    (source.unwrap(), output)
}

/// Standard input that holds this and ends.
fn stdin_of(config: Value, input: &[u8]) -> Source {
    let (source, mut output) = stdin(config);
    output.write_all(input).expect("it fits into the pipe");
    source
}

#[tokio::test]
async fn stdin_gives_a_record_a_line() {
    assert!(!plan("stdin", json!({}), Path::new(".")).replayable());
    let input = rows(0, 95).join("\n") + "\n";
    let mut source = stdin_of(json!({}), input.as_bytes());
    let (records, checkpoint) = read(&mut source, 1000).await;
    assert_eq!(records, rows(0, 95));
    let (_, position) = checkpoint.positions().next().unwrap();
    assert_eq!(position, input.len() as u64);
    // It has nothing to remember, and says so by taking every commit.
    source.committer.commit(&checkpoint).await.unwrap();
}

#[tokio::test]
async fn stdin_takes_odd_lines_as_they_are() {
    let input = b"\n\xff\xfe\r\n\n  \n\0\nwithout a newline";
    let mut source = stdin_of(json!({}), input);
    let mut payloads = Vec::new();
    while let Some(batch) = source.reader.next().await.unwrap() {
        payloads.extend(batch.records.payloads.iter().map(<[u8]>::to_vec));
    }
    let expected: [&[u8]; 4] = [b"\xff\xfe", b"  ", b"\0", b"without a newline"];
    assert_eq!(payloads, expected);
    assert_eq!(source.reader.oddities().empty_lines, 2);
    assert_eq!(source.reader.oddities().unended_lines, 1);
}

#[tokio::test]
async fn what_was_before_a_line_that_is_too_long_is_given_and_the_end_names_its_place() {
    let input = b"one\n\ntwo\n123456789\nthree\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), input).unwrap();
    let file = plan("file", json!({"path": "in", "line_max": 8}), folder.path());
    let file = open(&*file, folder.path()).await;
    let stdin = stdin_of(json!({"line_max": 8}), input);
    for (name, mut source) in [("in", file), ("stdin", stdin)] {
        let mut checkpoint = Checkpoint::default();
        let (records, failed) = read_until(&mut source, 10, &mut checkpoint).await;
        assert_eq!(records, ["one", "two"], "{name}");
        let message = failed.expect("an error").to_string();
        let expected = format!("{name} at 9: a line of more than 8 bytes");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(source.reader.oddities().empty_lines, 1, "{name}");
    }
}

#[tokio::test]
async fn a_followed_file_that_is_closed_has_counted_its_empty_lines() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), b"a\n\n\nb\n").unwrap();
    let plan = plan("file", json!({"path": "in", "follow": true}), folder.path());
    let mut source = open(&*plan, folder.path()).await;
    assert_eq!(read(&mut source, 2).await.0, ["a", "b"]);
    source.reader.close();
    assert_eq!(source.reader.oddities().empty_lines, 2);
}

/// Each of the files has a last line, and what is odd in one counts beside what is odd in the next.
#[tokio::test]
async fn what_is_odd_is_counted_over_all_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(folder.path().join(name), b"\none\ntwo").unwrap();
    }
    let plan = plan("file", json!({"path": "[abc]"}), folder.path());
    let mut source = open(&*plan, folder.path()).await;
    assert_eq!(read(&mut source, 10).await.0.len(), 6);
    assert!(source.reader.next().await.unwrap().is_none());
    let expected = Oddities {
        empty_lines: 3,
        unended_lines: 3,
        ..Oddities::default()
    };
    assert_eq!(source.reader.oddities(), expected);
}

#[test]
fn a_glob_that_is_followed_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    for (path, follow, warned) in [
        ("*.log", true, true),
        ("a?.log", true, true),
        ("a.log", true, false),
        ("*.log", false, false),
    ] {
        let plan = plan(
            "file",
            json!({"path": path, "follow": follow}),
            folder.path(),
        );
        let warnings = plan.warnings();
        assert_eq!(warnings.len(), usize::from(warned), "{path}");
        assert!(
            warnings
                .iter()
                .all(|one| one.warning && one.pointer == "/path")
        );
    }
}

#[tokio::test]
async fn a_closed_stdin_gives_what_it_took_although_the_pipe_stays_open() {
    let (mut source, mut output) = stdin(json!({}));
    output.write_all(b"one\ntw").unwrap();
    let mut checkpoint = Checkpoint::default();
    assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, ["one"]);
    source.reader.close();
    assert_eq!(read_on(&mut source, 10, &mut checkpoint).await, ["tw"]);
}

/// What is behind it stays in the pipe.
#[tokio::test]
async fn i2_stdin_that_is_closed_in_the_middle_of_a_line_reads_to_its_end() {
    let (input, mut output) = std::io::pipe().unwrap();
    let mut rest = input.try_clone().unwrap();
    let config: stdin::Config = serde_json::from_value(json!({})).unwrap();
    let source = config.read_from(File::from(OwnedFd::from(input)), LIMITS, 0);
    let mut source = source.unwrap();
    output.write_all(b"one\ntw").unwrap();
    let mut checkpoint = Checkpoint::default();
    assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, ["one"]);
    source.reader.close();
    output.write_all(b"o\nthree\n").unwrap();
    assert_eq!(read_on(&mut source, 10, &mut checkpoint).await, ["two"]);
    drop((source, output));
    let mut left = String::new();
    rest.read_to_string(&mut left).unwrap();
    assert_eq!(left, "three\n");
}

#[tokio::test]
async fn stdin_of_bytes_gives_all_of_them_in_blocks() {
    let input: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
    let mut source = stdin_of(json!({"framing": "bytes"}), &input);
    let mut bytes = Vec::new();
    while let Some(batch) = source.reader.next().await.unwrap() {
        assert_eq!(batch.start, bytes.len() as u64);
        assert!(batch.records.len() == 1 && batch.records.payloads.bytes.len() <= LIMITS.bytes_max);
        bytes.extend_from_slice(&batch.records.payloads.bytes);
        assert_eq!(batch.end(), bytes.len() as u64);
    }
    assert_eq!(bytes, input);
}

#[tokio::test]
async fn stdin_of_bytes_passes_a_block_on_at_once() {
    let (mut source, mut output) = stdin(json!({"framing": "bytes"}));
    let mut checkpoint = Checkpoint::default();
    for block in ["first", "no newline\n\n", "last"] {
        output.write_all(block.as_bytes()).unwrap();
        assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, [block]);
    }
    drop(output);
    assert!(read_on(&mut source, 1, &mut checkpoint).await.is_empty());
}

#[tokio::test]
async fn the_playground_gives_its_history_at_once_and_the_chosen_columns() {
    let driver = DRIVERS
        .iter()
        .find(|entry| entry.name == "playground")
        .unwrap();
    let component = json!({"stream_schema": [
        {"stream": "quotes", "columns": [{"name": "record_id"}, {"name": "currency"}]}
    ]});
    let facts = Facts {
        component,
        ..Facts::default()
    };
    let config = json!({"data_type": "market", "historical_batch": true, "seed": 1, "limit": 1001});
    let plan = (driver.check)(config, &facts).unwrap();
    let mut source = open(&*plan, Path::new("/nonexistent")).await;
    let (records, _) = read(&mut source, 2000).await;
    assert_eq!(records.len(), 1001);
    let last: Value = serde_json::from_str(&records[1000]).unwrap();
    assert_eq!(last["record_id"], 1001);
    assert_eq!(last.as_object().unwrap().len(), 2);
}

/// Reads so many records of the playground, as JSON objects.
async fn playground(config: Value, records: usize) -> Vec<Value> {
    let plan = plan("playground", config, Path::new("."));
    let mut source = open(&*plan, Path::new("/nonexistent")).await;
    let (records, _) = read(&mut source, records).await;
    let parse = |record: &String| serde_json::from_str(record).unwrap();
    records.iter().map(parse).collect()
}

#[tokio::test]
async fn the_playground_has_the_fields_of_its_data_and_the_same_for_the_same_seed() {
    for (data_type, fields) in [
        (
            "market",
            &["company", "currency", "record_id", "valuation"][..],
        ),
        ("user", &["age", "date", "email", "id", "name", "username"]),
    ] {
        let config = |seed: u64| json!({"data_type": data_type, "seed": seed, "historical_batch": true, "limit": 20});
        let records = playground(config(1), 20).await;
        for record in &records {
            let names: Vec<&String> = record.as_object().unwrap().keys().collect();
            let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, fields);
        }
        assert_eq!(records, playground(config(1), 20).await);
        assert_ne!(records, playground(config(2), 20).await);
    }
}

#[tokio::test]
async fn the_playground_gives_a_record_an_interval() {
    let started = std::time::Instant::now();
    let config = json!({"data_type": "market", "publish_interval": 0.02, "limit": 6});
    assert_eq!(playground(config, 10).await.len(), 6);
    // The first comes at once.
    let least = Duration::from_millis(20) * 5;
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
}

#[test]
fn the_playground_names_a_column_that_is_asked_for_twice() {
    let component = json!({"stream_schema": [{"columns": [{"name": "id"}, {"name": "id"}]}]});
    let facts = Facts {
        component,
        ..Facts::default()
    };
    let driver = DRIVERS.iter().find(|entry| entry.name == "playground");
    let check = driver.expect("it is in the table").check;
    let problems = check(json!({"data_type": "user"}), &facts).unwrap_err();
    assert_eq!(problems[0].pointer, "../stream_schema/0/columns/1");
    assert!(problems[0].message.contains("there already"));
}

#[test]
fn the_playground_names_a_column_that_it_does_not_have() {
    let driver = DRIVERS
        .iter()
        .find(|entry| entry.name == "playground")
        .unwrap();
    let component = json!({"stream_schema": [{"columns": [{"name": "price"}]}]});
    let facts = Facts {
        component,
        ..Facts::default()
    };
    let problems = (driver.check)(json!({"data_type": "user"}), &facts).unwrap_err();
    assert_eq!(problems[0].pointer, "../stream_schema/0/columns/0");
}
