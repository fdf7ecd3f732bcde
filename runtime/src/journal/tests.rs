//! What every journal promises, whatever it keeps its frames in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::disk::{Disk, Options, Sync};
use super::memory::{Memory, Retention};
use super::*;

const BYTES_MAX: u64 = 1 << 20;

/// Longest wait for room: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn chunk() -> Chunk {
    Chunk {
        wire: vec![b'x'; 10].into(),
        frames: [Frame {
            wire_end: 10,
            payload_start: 0,
            records_end: 1,
        }][..]
            .into(),
        records: [(0, 10)][..].into(),
        ..Chunk::default()
    }
}

fn in_memory() -> Arc<dyn Journal> {
    Arc::new(Memory::new(Retention {
        bytes_max: BYTES_MAX,
        age_max: None,
        history: false,
    }))
}

fn on_disk(path: &std::path::Path) -> Arc<dyn Journal> {
    let options = Options {
        path: path.to_owned(),
        bytes_max: BYTES_MAX,
        age_max: None,
        history: false,
        sync: Sync::None,
        fresh: false,
        frames: "text messages",
    };
    Arc::new(Disk::open(options).unwrap())
}

/// Who reads waits for the marks alone: where a pin that moved told what was true before an append,
/// after it, nobody would ever hear of what was appended.
#[test]
fn marks_are_as_new_as_the_last_append_whoever_tells_them() {
    let folder = tempfile::tempdir().unwrap();
    for (journal, appends) in [(in_memory(), 200_000), (on_disk(folder.path()), 20_000)] {
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
                let append = async { timeout(PATIENCE, journal.append(chunk(), Vec::new())).await };
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
