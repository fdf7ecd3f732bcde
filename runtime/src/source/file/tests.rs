//! Followed files that are renamed, replaced and cut, while a run reads them and between two runs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::record::Partition;
use crate::source::Source;
use crate::source::compliance::{open, open_at, plan, read, read_on, rows};

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

async fn follow(folder: &Path) -> Source {
    let plan = plan("file", json!({"path": "in", "follow": true}), folder);
    open(&*plan, folder).await
}

/// Reads `records` from where the last run had everything confirmed, and confirms them.
async fn follow_and_commit(folder: &Path, records: &[&str]) {
    let mut source = follow(folder).await;
    let (read, checkpoint) = read(&mut source, records.len()).await;
    assert_eq!(read, records);
    source.committer.commit(&checkpoint).await.unwrap();
}

#[tokio::test]
async fn a_followed_file_gives_what_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "one\ntw").unwrap();
    let mut source = follow(folder.path()).await;
    let (records, mut checkpoint) = read(&mut source, 1).await;
    assert_eq!(records, ["one"]);
    append(&path, "o\nthree\n");
    let more = read_on(&mut source, 2, &mut checkpoint).await;
    assert_eq!(more, ["two", "three"]);
}

#[tokio::test]
async fn a_followed_file_may_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let mut source = follow(folder.path()).await;
    let write = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        append(&path, "one\ntwo\n");
    };
    let (_, (records, checkpoint)) = tokio::join!(write, read(&mut source, 2));
    assert_eq!(records, ["one", "two"]);
    source.committer.commit(&checkpoint).await.unwrap();
    drop(source);
    append(&path, "three\n");
    follow_and_commit(folder.path(), &["three"]).await;
}

#[tokio::test]
async fn what_stands_before_a_torn_end_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(rows(0, 50).join("\n").as_bytes()).unwrap();
    let packed = gz.finish().unwrap();
    fs::write(folder.path().join("in.gz"), &packed[..packed.len() - 10]).unwrap();
    let plan = plan("file", json!({"path": "in.gz"}), folder.path());
    let mut source = open(&*plan, folder.path()).await;
    let (records, _) = read(&mut source, 49).await;
    assert_eq!(records[..], rows(0, 49));
    let error = loop {
        match source.reader.next().await {
            Ok(batch) => assert!(batch.is_some(), "the end was told to be whole"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("in.gz after byte"), "{error}");
}

#[tokio::test]
async fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "one\ntw").unwrap();
    let mut source = follow(folder.path()).await;
    let (_, mut checkpoint) = read(&mut source, 1).await;
    fs::rename(&path, folder.path().join("in.1")).unwrap();
    // Its name leads nowhere for a while, and then to a file without content.
    append(&folder.path().join("in.1"), "o\n");
    assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, ["two"]);
    append(&path, "");
    append(&folder.path().join("in.1"), "three\n");
    assert_eq!(read_on(&mut source, 1, &mut checkpoint).await, ["three"]);
    append(&folder.path().join("in.1"), "last of the old");
    append(&path, "first of the new\n");
    let more = read_on(&mut source, 2, &mut checkpoint).await;
    assert_eq!(more, ["last of the old", "first of the new"]);
}

#[tokio::test]
async fn a_cut_file_is_read_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "one\ntwo\nthr").unwrap();
    let mut source = follow(folder.path()).await;
    let (_, mut checkpoint) = read(&mut source, 2).await;
    fs::write(&path, "four\n").unwrap();
    // Of a line that was cut away, what was read goes on: nothing is dropped in silence (I2).
    let more = read_on(&mut source, 2, &mut checkpoint).await;
    assert_eq!(more, ["thr", "four"]);
}

#[tokio::test]
async fn a_file_that_was_cut_and_grew_past_the_old_place_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "one\n").unwrap();
    let mut source = follow(folder.path()).await;
    let (_, mut checkpoint) = read(&mut source, 1).await;
    fs::write(&path, "two\nthree\n").unwrap();
    let more = read_on(&mut source, 2, &mut checkpoint).await;
    assert_eq!(more, ["two", "three"]);
}

#[tokio::test]
async fn i1_a_run_goes_on_in_the_renamed_file_where_not_all_of_it_was_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "one\ntwo\nthree\n").unwrap();
    follow_and_commit(folder.path(), &["one", "two", "three"]).await;
    append(&path, "four\nfive\n");
    fs::rename(&path, folder.path().join("in.1")).unwrap();
    append(&path, "six\n");
    follow_and_commit(folder.path(), &["four", "five", "six"]).await;
    append(&path, "seven\n");
    follow_and_commit(folder.path(), &["seven"]).await;
}

/// Renamed twice while nothing of the second file was confirmed: all three are found again.
#[tokio::test]
async fn i1_files_that_were_read_and_not_confirmed_are_found_again_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "one\ntwo\n").unwrap();
    let mut source = follow(folder.path()).await;
    let (_, mut checkpoint) = read(&mut source, 2).await;
    let confirmed = part(&checkpoint, "one\n".len());
    for (name, line) in [("in.1", "three\n"), ("in.2", "four\n")] {
        fs::rename(&path, folder.path().join(name)).unwrap();
        append(&path, line);
        read_on(&mut source, 1, &mut checkpoint).await;
    }
    source.committer.commit(&confirmed).await.unwrap();
    drop(source);
    follow_and_commit(folder.path(), &["two", "three", "four"]).await;
}

/// A crash before the first commit, and a file that is given away while nothing runs.
#[tokio::test]
async fn i1_a_file_that_was_begun_is_known_before_anything_of_it_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "one\n").unwrap();
    let mut source = follow(folder.path()).await;
    read(&mut source, 1).await;
    drop(source);
    fs::rename(&path, folder.path().join("in.1")).unwrap();
    append(&path, "two\n");
    let mut source = follow(folder.path()).await;
    assert_eq!(read(&mut source, 2).await.0, ["one", "two"]);
    drop(source);
    fs::rename(&path, folder.path().join("in.2")).unwrap();
    append(&path, "three\n");
    follow_and_commit(folder.path(), &["one", "two", "three"]).await;
}

/// The name is given away twice while much of the first file is still to be read.
#[tokio::test]
async fn files_that_had_the_name_while_the_reader_was_behind_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let first = rows(0, 500);
    fs::write(&path, first.join("\n") + "\n").unwrap();
    let config = json!({"path": "in", "follow": true, "rate": 1000});
    let plan = plan("file", config, folder.path());
    let mut source = open(&*plan, folder.path()).await;
    let (mut records, mut checkpoint) = read(&mut source, 10).await;
    fs::rename(&path, folder.path().join("in.1")).unwrap();
    append(&path, "second\n");
    while records.len() < 450 {
        records.extend(read_on(&mut source, 10, &mut checkpoint).await);
    }
    fs::rename(&path, folder.path().join("in.2")).unwrap();
    append(&path, "third\n");
    let missing = 502 - records.len();
    records.extend(read_on(&mut source, missing, &mut checkpoint).await);
    assert_eq!(records[..500], first);
    assert_eq!(records[500..], ["second", "third"]);
}

fn part(checkpoint: &Checkpoint, position: usize) -> Checkpoint {
    let mut part = Checkpoint::default();
    let (partition, _) = checkpoint.positions().next().unwrap();
    part.start_at(partition.clone(), position as u64);
    part
}

#[tokio::test]
async fn i1_what_was_confirmed_of_a_cut_file_skips_nothing_of_what_it_holds_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "same\nsame\n").unwrap();
    let mut source = follow(folder.path()).await;
    let (_, mut checkpoint) = read(&mut source, 2).await;
    let confirmed = part(&checkpoint, "same\n".len());
    fs::write(&path, "same\n").unwrap();
    read_on(&mut source, 1, &mut checkpoint).await;
    // The place that is confirmed lies in what was cut away, and the file will begin alike again.
    source.committer.commit(&confirmed).await.unwrap();
    drop(source);
    append(&path, "same\nnew\n");
    follow_and_commit(folder.path(), &["same", "same", "new"]).await;
}

#[tokio::test]
async fn i1_another_file_that_begins_alike_is_read_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "head\n").unwrap();
    follow_and_commit(folder.path(), &["head"]).await;
    // Written before the first is gone, so that it cannot be given the same inode.
    fs::write(folder.path().join("next"), "head\ntwo\n").unwrap();
    fs::rename(folder.path().join("next"), &path).unwrap();
    follow_and_commit(folder.path(), &["head", "two"]).await;
}

#[tokio::test]
async fn a_file_that_was_short_when_it_was_confirmed_goes_on_when_it_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, "a\n").unwrap();
    follow_and_commit(folder.path(), &["a"]).await;
    append(&path, "b\n");
    follow_and_commit(folder.path(), &["b"]).await;
    let long = "c".repeat(3000);
    append(&path, &format!("{long}\n"));
    follow_and_commit(folder.path(), &[&long]).await;
    append(&path, "d\n");
    follow_and_commit(folder.path(), &["d"]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_is_followed_to_where_it_leads() {
    let folder = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    fs::write(logs.path().join("0.log"), "one\ntwo\n").unwrap();
    let link = folder.path().join("in");
    std::os::unix::fs::symlink(logs.path().join("0.log"), &link).unwrap();
    follow_and_commit(folder.path(), &["one", "two"]).await;
    append(&logs.path().join("0.log"), "three\n");
    fs::rename(logs.path().join("0.log"), logs.path().join("0.log.1")).unwrap();
    fs::write(logs.path().join("0.log"), "four\n").unwrap();
    follow_and_commit(folder.path(), &["three", "four"]).await;
}

/// Positions of a partition go on rising over files and runs, so that the journal's means one place.
#[tokio::test]
async fn i1_the_journal_leads_into_the_file_that_took_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    append(&path, "one\ntwo\n");
    let config = json!({"path": "in", "follow": true});
    let plan = plan("file", config, folder.path());
    let journal = |position| {
        let mut checkpoint = Checkpoint::default();
        checkpoint.start_at(Partition::new("in"), position);
        Some(checkpoint)
    };
    // It is renamed while nothing runs, and the old one was committed to its first record only.
    let mut source = open_at(&*plan, folder.path(), Some(Checkpoint::default())).await;
    let (records, _) = read(&mut source, 2).await;
    assert_eq!(records, ["one", "two"]);
    source.committer.commit(&journal(4).unwrap()).await.unwrap();
    fs::rename(&path, folder.path().join("old")).unwrap();
    append(&path, "three\nfour\n");
    drop(source);
    let mut source = open_at(&*plan, folder.path(), journal(8)).await;
    let (records, checkpoint) = read(&mut source, 1).await;
    assert_eq!(records[0], "three");
    source.committer.commit(&checkpoint).await.unwrap();
    drop(source);
    // Twelve bytes in all were before the last record of the second file.
    let mut source = open_at(&*plan, folder.path(), journal(14)).await;
    assert_eq!(source.start.position(&Partition::new("in")), Some(14));
    let (records, _) = read(&mut source, 1).await;
    assert_eq!(records, ["four"]);
}
