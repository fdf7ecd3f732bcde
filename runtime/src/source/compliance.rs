//! The compliance test that every source passes: what the pipeline relies on, checked on each.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{BatchLimits, DRIVERS, Source, SourceContext, SourcePlan};
use crate::checkpoint::{Checkpoint, Delta};
use crate::driver::Facts;

fn plan(driver: &str, config: Value, folder: &Path) -> Box<dyn SourcePlan> {
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

async fn open(plan: &dyn SourcePlan, folder: &Path) -> Source {
    let limits = BatchLimits {
        records_max: 10,
        bytes_max: 1 << 16,
        wait: Duration::from_millis(5),
    };
    let context = SourceContext {
        limits,
        state_dir: folder.join("state"),
        fresh: false,
    };
    plan.open(context).await.expect("it opens")
}

/// Reads up to `records_max` records; checks batches, positions and order on the way.
async fn read(source: &mut Source, records_max: usize) -> (Vec<String>, Checkpoint) {
    let mut checkpoint = source.start.clone();
    let records = read_on(source, records_max, &mut checkpoint).await;
    (records, checkpoint)
}

async fn read_on(
    source: &mut Source,
    records_max: usize,
    checkpoint: &mut Checkpoint,
) -> Vec<String> {
    let mut records = Vec::new();
    while records.len() < records_max {
        let Some(batch) = source.reader.next().await.expect("it reads") else {
            break;
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
    records
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

fn rows(from: usize, to: usize) -> Vec<String> {
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

#[tokio::test]
async fn a_followed_file_gives_what_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    std::fs::write(&path, "one\ntw").unwrap();
    let plan = plan("file", json!({"path": "in", "follow": true}), folder.path());
    let mut source = open(&*plan, folder.path()).await;
    assert_eq!(read(&mut source, 1).await.0, ["one"]);
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    std::io::Write::write_all(&mut file, b"o\nthree\n").unwrap();
    assert_eq!(read(&mut source, 2).await.0, ["two", "three"]);
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
