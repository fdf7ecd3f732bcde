//! What every journal promises, whatever it keeps its frames in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::disk::{Disk, Options, Sync};
use super::memory::{Memory, Retention};
use super::*;
use crate::record::Partition;

const BYTES_MAX: u64 = 1 << 20;

/// Longest wait for room: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A record of so many bytes.
fn record(bytes: usize) -> Chunk {
    testing::chunk(["x".repeat(bytes)])
}

fn memory(history: bool) -> Arc<dyn Journal> {
    Arc::new(Memory::new(Retention {
        bytes_max: BYTES_MAX,
        age_max: None,
        history,
    }))
}

fn disk(path: &std::path::Path, history: bool, fresh: bool) -> Arc<dyn Journal> {
    let options = Options {
        path: path.to_owned(),
        bytes_max: BYTES_MAX,
        age_max: None,
        history,
        sync: Sync::None,
        fresh,
        frames: "text messages",
    };
    Arc::new(Disk::open(options).unwrap())
}

/// Who reads waits for the marks alone: where a pin that moved told what was true before an append,
/// after it, nobody would ever hear of what was appended.
#[test]
fn marks_are_as_new_as_the_last_append_whoever_tells_them() {
    let folder = tempfile::tempdir().unwrap();
    for (journal, appends) in [
        (memory(false), 200_000),
        (disk(folder.path(), false, false), 20_000),
    ] {
        let marks = journal.marks();
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut reader = journal.pin(Position(0));
                while !over.load(Ordering::Relaxed) {
                    let durable = marks.borrow().durable; // not held while the pin moves
                    reader.advance(durable);
                }
            });
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            let behind = (0..appends).find_map(|_| {
                let append =
                    async { timeout(PATIENCE, journal.append(record(10), Vec::new())).await };
                let head = match runtime.block_on(append) {
                    Ok(head) => head.unwrap(),
                    Err(_) => Position(u64::MAX), // the reader has not heard of what fills the journal
                };
                let told = marks.borrow().head;
                (told < head).then_some((head, told))
            });
            over.store(true, Ordering::Relaxed);
            assert_eq!(behind, None, "appended, and what is told");
        });
    }
}

fn partition() -> Partition {
    Partition::new("input")
}

fn delta(from: u64, to: u64) -> Delta {
    Delta {
        partition: partition(),
        from,
        to,
    }
}

async fn append(journal: &dyn Journal, chunk: Chunk, from: u64, to: u64) {
    let append = journal.append(chunk, vec![delta(from, to)]);
    timeout(PATIENCE, append).await.unwrap().unwrap();
}

/// Whether what is forgotten is what lies before the tail: record `n` of the journal is input `2 * n`, since
/// an append without frames comes behind each, and that of the last one may be kept a little longer.
fn forgets_what_is_before_the_tail(journal: &dyn Journal) -> bool {
    let before = 2 * journal.marks().borrow().tail.0;
    let forgotten = journal.forgotten().position(&partition());
    forgotten == Some(before) || forgotten == Some(before - 1)
}

/// Appends until something is forgotten.
async fn fill(journal: &dyn Journal) {
    let tail = journal.marks().borrow().tail;
    let long = record(BYTES_MAX as usize / 20);
    for n in 1..40 {
        append(journal, long.clone(), 2 * n, 2 * n + 1).await;
        append(journal, Chunk::default(), 2 * n + 1, 2 * n + 2).await;
    }
    // The disk's writer drops segments on a thread of its own.
    let mut marks = journal.marks();
    let forgotten = timeout(PATIENCE, async {
        while marks.borrow_and_update().tail == tail || !forgets_what_is_before_the_tail(journal) {
            marks.changed().await.unwrap();
        }
    });
    let told = forgotten.await;
    let (marks, forgotten) = (*journal.marks().borrow(), journal.forgotten());
    assert!(told.is_ok(), "{marks:?}, {forgotten:?}");
}

#[tokio::test]
async fn what_was_settled_before_the_oldest_record_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    for journal in [memory(true), disk(folder.path(), true, false)] {
        assert_eq!(journal.forgotten(), Checkpoint::default());
        append(&*journal, Chunk::default(), 0, 0).await;
        append(&*journal, record(10), 0, 1).await;
        append(&*journal, Chunk::default(), 1, 2).await;
        assert_eq!(journal.forgotten().position(&partition()).unwrap_or(0), 0);
        fill(&*journal).await;
        journal.finish().await.unwrap();
    }
    // On the disk it outlives the process, until sources begin anew: then the same positions are others.
    let journal = disk(folder.path(), true, false);
    assert!(journal.marks().borrow().tail > Position(0));
    assert!(forgets_what_is_before_the_tail(&*journal));
    journal.finish().await.unwrap();
    drop(journal);
    let journal = disk(folder.path(), true, true);
    assert_eq!(journal.forgotten(), Checkpoint::default());
    append(&*journal, record(10), 0, 1).await;
    assert_eq!(journal.forgotten(), Checkpoint::default());
}

/// Nobody is left who could ask for what came through no formatter.
#[tokio::test]
async fn an_empty_journal_has_forgotten_all_that_was_settled() {
    let journal = memory(true);
    append(&*journal, Chunk::default(), 0, 3).await;
    assert_eq!(journal.forgotten().position(&partition()), Some(3));
}
