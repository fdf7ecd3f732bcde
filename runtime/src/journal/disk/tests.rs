//! The journal on disk as its users see it: in a real folder, and over a disk that fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::simulation::FakeDisk;
use super::*;
use crate::journal::testing::chunk;
use crate::journal::{Bookmark, Journal as _};
use crate::record::Partition;

/// Records `from..to`, each its number and some padding.
fn numbered(from: u64, to: u64) -> Chunk {
    chunk((from..to).map(|n| format!("{n:0>300}")))
}

fn step(from: u64, to: u64) -> Vec<Delta> {
    vec![Delta {
        partition: Partition::new("p"),
        from,
        to,
    }]
}

fn options(path: &Path) -> Options {
    Options {
        path: path.to_owned(),
        bytes_max: 1 << 20,
        age_max: None,
        history: true,
        sync: Sync::Batch,
        fresh: false,
        frames: "text messages",
    }
}

fn open(options: Options) -> Disk {
    Disk::open(options).unwrap()
}

async fn durable(journal: &Disk, position: u64) {
    let mut marks = journal.marks();
    let reached = marks.wait_for(|marks| marks.durable >= Position(position));
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.expect("it is durable in time").unwrap();
}

/// The numbers of the records from `from` on.
fn read_all(journal: &Disk, from: u64) -> Vec<u64> {
    let mut at = Position(from);
    let mut numbers = Vec::new();
    while let Read::Chunk(chunk) = journal.read(at) {
        for index in at.since(chunk.first) as usize..chunk.records.len() {
            let text = std::str::from_utf8(chunk.record(index)).unwrap();
            numbers.push(text.parse().unwrap());
        }
        at = chunk.end();
    }
    numbers
}

fn settled(journal: &Disk) -> Option<u64> {
    journal.checkpoint().position(&Partition::new("p"))
}

#[tokio::test]
async fn i1_the_next_run_goes_on_after_an_end_and_after_a_crash() {
    for finished in [true, false] {
        for sync in [
            Sync::Batch,
            Sync::Interval(Duration::from_millis(5)),
            Sync::None,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let options = Options {
                sync,
                ..options(folder.path())
            };
            let journal = open(options.clone());
            let epoch = journal.epoch();
            for n in 0..30 {
                let appended = journal.append(numbered(n * 10, n * 10 + 10), step(n, n + 1));
                appended.await.unwrap();
            }
            journal
                .append(Chunk::default(), step(30, 33))
                .await
                .unwrap();
            durable(&journal, 300).await;
            if finished {
                journal.finish().await.unwrap();
            }
            drop(journal);
            let journal = open(options);
            assert_eq!(journal.epoch(), epoch);
            assert_eq!(read_all(&journal, 0), (0..300).collect::<Vec<_>>());
            // Only what moves nothing but the checkpoint may come after the durable mark.
            let settled = settled(&journal);
            assert!(
                settled == Some(33) || (settled == Some(30) && !finished),
                "{settled:?}"
            );
            let head = journal.append(numbered(300, 301), vec![]).await.unwrap();
            assert_eq!(head, Position(301));
            durable(&journal, 301).await;
            assert_eq!(read_all(&journal, 299), [299, 300]);
        }
    }
}

#[tokio::test]
async fn a_late_reader_gets_from_the_disk_what_memory_has_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(Options {
        bytes_max: 64 << 20,
        ..options(folder.path())
    });
    let mut at = 0;
    for size in (0..400).map(|n| 1 + n * 7 % 300) {
        journal
            .append(numbered(at, at + size), vec![])
            .await
            .unwrap();
        at += size;
    }
    durable(&journal, at).await;
    assert!(journal.shared.state().hot_bytes <= HOT_BYTES_MAX);
    assert_eq!(read_all(&journal, 0), (0..at).collect::<Vec<_>>());
    assert!(matches!(journal.read(Position(at)), Read::Wait));
}

#[tokio::test]
async fn history_gives_way_by_whole_segments_and_the_reader_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(options(folder.path()));
    for n in 0..80 {
        let appended = journal.append(numbered(n * 100, n * 100 + 100), step(n, n + 1));
        appended.await.unwrap();
    }
    durable(&journal, 8000).await;
    let tail = journal.marks().borrow().tail;
    assert!(tail > Position(0), "2.4 MB do not fit 1 MiB");
    assert!(matches!(journal.read(Position(0)), Read::Lost { tail: told } if told == tail));
    let files = std::fs::read_dir(folder.path()).unwrap().flatten();
    let is_segment =
        |file: &std::fs::DirEntry| segment::sequence(&file.file_name().to_string_lossy()).is_some();
    let segments = files.filter(is_segment);
    let bytes: u64 = segments.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= (1 << 20) + 1000, "{bytes}");
    // The checkpoint outlives the segments that it was made of.
    drop(journal);
    let journal = open(options(folder.path()));
    assert_eq!(settled(&journal), Some(80));
    assert_eq!(journal.marks().borrow().tail, tail);
}

#[tokio::test]
async fn i4_a_full_journal_waits_for_its_pin_and_then_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(Options {
        history: false,
        ..options(folder.path())
    });
    let mut pin = journal.pin(Position(0));
    let mut head = 0;
    let waiting = loop {
        let mut append = journal.append(numbered(head, head + 100), vec![]);
        match tokio::time::timeout(Duration::from_millis(300), &mut append).await {
            Ok(appended) => head = appended.unwrap().0,
            Err(_) => break append,
        }
        assert!(head < 10_000, "it is bounded");
    };
    assert_eq!(journal.marks().borrow().tail, Position(0));
    pin.advance(Position(head));
    let appended = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert_eq!(appended.expect("there is room"), Ok(Position(head + 100)));
    assert_eq!(
        read_all(&journal, head - 5),
        (head - 5..head).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn i1_without_history_what_no_cursor_has_passed_stays_though_the_cursor_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        history: false,
        ..options(folder.path())
    };
    let journal = open(options.clone());
    let mut pin = journal.pin(Position(0));
    for n in 0..20 {
        journal
            .append(numbered(n * 100, n * 100 + 100), vec![])
            .await
            .unwrap();
    }
    durable(&journal, 2000).await;
    pin.advance(Position(1000));
    drop(pin);
    journal.finish().await.unwrap();
    drop(journal);
    let journal = open(options);
    assert_eq!(read_all(&journal, 1000), (1000..2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn cursors_come_back_and_are_never_beyond_the_head() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(options(folder.path()));
    journal.append(numbered(0, 10), vec![]).await.unwrap();
    durable(&journal, 10).await;
    journal.remember("a", Position(4).into());
    journal.remember("a", Position(7).into());
    let owned = Bookmark {
        at: Position(5),
        owner: Some("somebody".into()),
        stays: false,
    };
    journal.remember("owned", owned.clone());
    journal.finish().await.unwrap();
    drop(journal);
    let journal = open(options(folder.path()));
    assert_eq!(journal.remembered("a"), Some(Position(7).into()));
    assert_eq!(journal.remembered("owned"), Some(owned));
    assert_eq!(journal.remembered("b"), None);
    // Also without a last word, some time after it moved.
    journal.remember("a", Position(9).into());
    let written = || std::fs::read_to_string(folder.path().join(notes::CURSORS)).unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !written().contains("\"a\":9") {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("it is written down");
    drop(journal);
    assert_eq!(
        open(options(folder.path())).remembered("a"),
        Some(Position(9).into())
    );
}

/// Who waits for a new name to be kept finds it after a crash at that moment.
#[tokio::test]
async fn a_bookmark_that_is_kept_outlives_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(options(folder.path()));
    append(&journal, 0, 100).await;
    for at in 0..20 {
        let name = format!("n{at}");
        journal.remember(&name, Position(at).into());
        journal.bookmark_kept(&name).await;
        // Where it was some time ago is enough: nothing is waited for.
        journal.remember(&name, Position(99).into());
        journal.bookmark_kept(&name).await;
        drop(journal); // as after a crash
        journal = open(options(folder.path()));
        assert_eq!(journal.remembered(&name), Some(Position(at).into()));
    }
}

/// Who waits for a name to be forgotten does not find it after a crash at that moment; and who takes it
/// again at once, and waits, does.
#[tokio::test]
async fn a_bookmark_that_is_forgotten_stays_forgotten_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(options(folder.path()));
    append(&journal, 0, 100).await;
    for at in 0..20 {
        let name = format!("n{at}");
        journal.remember(&name, Position(at).into());
        journal.bookmark_kept(&name).await;
        assert!(journal.forget(&name).await);
        assert!(!journal.forget(&name).await);
        drop(journal); // as after a crash
        journal = open(options(folder.path()));
        assert_eq!(journal.remembered(&name), None);
        journal.remember(&name, Position(at).into());
        journal.bookmark_kept(&name).await;
        let forgotten = journal.forget(&name);
        journal.remember(&name, Position(at + 1).into());
        journal.bookmark_kept(&name).await;
        drop(forgotten);
        drop(journal);
        journal = open(options(folder.path()));
        assert_eq!(journal.remembered(&name), Some(Position(at + 1).into()));
    }
}

/// Appends records `from..to`, a hundred at a time, and waits until they are durable.
async fn append(journal: &Disk, from: u64, to: u64) {
    for at in (from..to).step_by(100) {
        let chunk = numbered(at, at + 100);
        journal.append(chunk, vec![]).await.unwrap();
    }
    durable(journal, to).await;
}

/// A reader that acknowledged everything is not told after a crash that it missed what is gone.
#[tokio::test]
async fn a_cursor_is_never_found_before_what_was_dropped_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let journal = open(options.clone());
    journal.remember("a", Position(0).into());
    let mut pin = journal.pin(Position(0));
    append(&journal, 0, 3000).await;
    while !folder.path().join(notes::CURSORS).exists() {
        tokio::task::yield_now().await;
    }
    // What the journal has no room for goes at once, sooner than cursors are written down by the clock.
    journal.remember("a", Position(3000).into());
    pin.advance(Position(3000));
    append(&journal, 3000, 4500).await;
    drop((pin, journal)); // as after a crash
    let journal = open(options);
    let tail = journal.marks().borrow().tail;
    assert!(tail > Position(0));
    let found = journal.remembered("a").expect("it was remembered").at;
    assert!(found >= tail, "{found:?} is before {tail:?}");
}

#[tokio::test]
async fn a_new_epoch_begins_only_where_what_was_seen_may_be_gone() {
    for (synced, boot, is_new) in [(false, "another", true), (true, "another", false)] {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(options(folder.path()));
        let epoch = journal.epoch();
        journal.append(numbered(0, 10), step(0, 1)).await.unwrap();
        durable(&journal, 10).await;
        drop(journal);
        let left = notes::State {
            synced,
            boot: boot.to_owned(),
            clean: None,
            frames: String::new(),
        };
        let path = folder.path().to_owned();
        notes::write(&RealFolder { path }, notes::STATE, &left).unwrap();
        let journal = open(options(folder.path()));
        assert_eq!(journal.epoch() != epoch, is_new);
        assert_eq!(read_all(&journal, 0), (0..10).collect::<Vec<_>>());
        assert_eq!(settled(&journal), Some(1));
        let epoch = journal.epoch();
        drop(journal);
        assert_eq!(open(options(folder.path())).epoch(), epoch, "once");
    }
}

#[tokio::test]
async fn fresh_forgets_how_far_the_sources_were_and_keeps_the_records() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(options(folder.path()));
    journal.append(numbered(0, 10), step(0, 9)).await.unwrap();
    durable(&journal, 10).await;
    drop(journal);
    let fresh = Options {
        fresh: true,
        ..options(folder.path())
    };
    let journal = open(fresh);
    assert_eq!(settled(&journal), None);
    journal.append(numbered(10, 20), step(0, 4)).await.unwrap();
    durable(&journal, 20).await;
    drop(journal);
    let journal = open(options(folder.path()));
    assert_eq!(
        (settled(&journal), read_all(&journal, 0).len()),
        (Some(4), 20)
    );
}

#[tokio::test]
async fn frames_are_not_read_on_as_others() {
    for (history, acknowledged, is_refused) in [
        (true, 10, true),
        (false, 0, true),
        (false, 9, true),
        (false, 10, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let before = Options {
            history,
            ..options(folder.path())
        };
        let after = || Options {
            frames: "binary messages",
            ..before.clone()
        };
        drop(open(before.clone()));
        let journal = open(after()); // there is nothing in it
        drop(journal);
        let journal = open(before.clone());
        journal.append(numbered(0, 10), step(0, 9)).await.unwrap();
        durable(&journal, 10).await;
        if acknowledged > 0 {
            journal.remember("sink", Position(acknowledged).into());
        }
        journal.close();
        journal.finish().await.unwrap();
        drop(journal);
        let refused = Disk::open(after()).err().map(|error| error.to_string());
        assert_eq!(refused.is_some(), is_refused, "{history} {acknowledged}");
        if let Some(refused) = refused {
            let told = "records as text messages, and this pipeline writes binary";
            assert!(refused.contains(told), "{refused}");
            assert_eq!(read_all(&open(before.clone()), 0).len(), 10);
        }
    }
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(options(folder.path()));
    let refused = Disk::open(options(folder.path())).err();
    let refused = refused.expect("it is in use").to_string();
    assert!(
        refused.contains("another process has this journal"),
        "{refused}"
    );
    drop(journal);
    open(options(folder.path()));
}

/// Ten chunks in a folder, and the bytes of their one segment.
async fn ten_chunks(folder: &Path) -> (PathBuf, Vec<u8>) {
    let journal = open(options(folder));
    for n in 0..10 {
        let appended = journal.append(numbered(n * 10, n * 10 + 10), step(n, n + 1));
        appended.await.unwrap();
        durable(&journal, n * 10 + 10).await;
    }
    drop(journal);
    let path = folder.join(segment::name(1));
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = ten_chunks(folder.path()).await;
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let journal = open(options(folder.path()));
    assert_eq!(read_all(&journal, 0), (0..90).collect::<Vec<_>>());
    assert_eq!(settled(&journal), Some(9));
}

#[tokio::test]
async fn damage_before_the_tail_is_told_with_its_place_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut bytes) = ten_chunks(folder.path()).await;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let refused = Disk::open(options(folder.path())).err();
    let refused = refused.expect("it is damaged").to_string();
    let offset: u64 = refused
        .split("at byte ")
        .nth(1)
        .and_then(|rest| rest.split(':').next()?.parse().ok())
        .expect("an offset");
    assert!(refused.contains("0000000001.segment"), "{refused}");
    assert!(
        offset <= middle as u64 && offset + 3400 > middle as u64,
        "{refused}"
    );
    assert!(
        refused.contains("restore the folder from a copy"),
        "{refused}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

/// What a reader finds altered is not passed on: it waits, and the journal says that it cannot go on.
#[tokio::test]
async fn damage_that_a_reader_meets_stops_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(options(folder.path()));
    for n in 0..10 {
        journal
            .append(numbered(n * 100, n * 100 + 100), vec![])
            .await
            .unwrap();
        durable(&journal, n * 100 + 100).await;
    }
    assert!(journal.marks().borrow().durable == Position(1000));
    drop(journal);
    let path = folder.path().join(segment::name(1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1; // a sealed segment: its bodies are checked when they are read
    std::fs::write(&path, bytes).unwrap();
    let journal = open(options(folder.path()));
    assert!(journal.failure().is_none());
    assert!(matches!(journal.read(Position(0)), Read::Wait));
    let failure = journal.failure().expect("it is told").to_string();
    assert!(failure.contains("0000000001.segment"), "{failure}");
    assert!(journal.append(numbered(0, 1), vec![]).await.is_err());
}

#[tokio::test]
async fn i4_a_failing_disk_holds_back_and_loses_nothing() {
    for (fails_one_in, bytes_max) in [(1, usize::MAX), (0, 20_000), (3, usize::MAX)] {
        let disk = FakeDisk::new(7);
        let folder: Arc<dyn Folder> = Arc::new(disk.clone());
        let journal = Disk::over(Arc::clone(&folder), None, options(Path::new("fake"))).unwrap();
        disk.set(|state| (state.fails_one_in, state.bytes_max) = (fails_one_in, bytes_max));
        for n in 0..10 {
            journal
                .append(numbered(n * 10, n * 10 + 10), step(n, n + 1))
                .await
                .unwrap();
        }
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while fails_one_in != 3 && journal.trouble().is_none() {
                tokio::task::yield_now().await;
            }
        });
        waited.await.expect("it says so");
        let seen = journal.marks().borrow().durable;
        assert!(
            !matches!(journal.read(seen), Read::Chunk(_)),
            "nothing above the durable mark"
        );
        disk.set(|state| (state.fails_one_in, state.bytes_max) = (0, usize::MAX));
        durable(&journal, 100).await;
        assert_eq!(journal.trouble(), None);
        assert_eq!(read_all(&journal, 0), (0..100).collect::<Vec<_>>());
        drop(journal);
        let journal = Disk::over(folder, None, options(Path::new("fake"))).unwrap();
        assert_eq!(read_all(&journal, 0), (0..100).collect::<Vec<_>>());
        assert_eq!(settled(&journal), Some(10));
    }
}

#[tokio::test]
async fn the_end_does_not_wait_for_ever_for_a_disk_that_takes_nothing() {
    let disk = FakeDisk::new(7);
    let journal = Disk::over(Arc::new(disk.clone()), None, options(Path::new("fake"))).unwrap();
    disk.set(|state| state.fails_one_in = 1);
    journal.append(numbered(0, 10), vec![]).await.unwrap();
    let ended = journal.finish().await;
    assert!(
        matches!(ended, Err(JournalError::Undurable { records: 10, .. })),
        "{ended:?}"
    );
}
