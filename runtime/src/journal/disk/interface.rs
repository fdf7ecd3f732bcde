//! What everybody else sees of the journal on disk.
//!
//! Owns no state: it asks what `disk` shares with the writer, and waits for what the writer tells.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::segment::Segment;
use super::{Disk, Note};
use crate::checkpoint::{Checkpoint, Delta};
use crate::driver::BoxFuture;
use crate::journal::{Bookmark, Chunk, Cursor, Journal, JournalError, Marks, Position, Read};

impl Journal for Disk {
    fn append(
        &self,
        chunk: Chunk,
        settled: Vec<Delta>,
    ) -> BoxFuture<'_, Result<Position, JournalError>> {
        Box::pin(async move {
            let (mut chunk, mut settled) = (chunk, settled);
            loop {
                let freed = self.shared.freed.notified();
                match self.shared.try_append(chunk, settled)? {
                    Ok(head) => return Ok(head),
                    Err(given_back) => (chunk, settled) = given_back,
                }
                freed.await;
            }
        })
    }

    fn read(&self, from: Position) -> Read {
        let state = self.shared.state();
        if from >= state.durable {
            return Read::Wait;
        }
        let tail = state.tail();
        if from < tail {
            return Read::Lost { tail };
        }
        if state.hot.front().is_some_and(|oldest| oldest.first <= from) {
            let index = state.hot.partition_point(|chunk| chunk.end() <= from);
            return Read::Chunk(state.hot[index].clone());
        }
        let after = state
            .segments
            .partition_point(|segment| segment.first <= from);
        // Segments without records share their position with the next one.
        let holds = |segment: &&Arc<Segment>| from < segment.extent().end;
        let segment = state.segments.range(..after).rev().find(holds).cloned();
        drop(state);
        let segment = segment.expect("what is durable and not in memory is in a segment");
        self.shared.read_cold(&segment, from)
    }

    fn marks(&self) -> watch::Receiver<Marks> {
        self.shared.marks.subscribe()
    }

    fn bytes(&self) -> u64 {
        let state = self.shared.state();
        state.disk_bytes + state.pending_bytes()
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    fn pin(&self, from: Position) -> Cursor {
        let id = self.shared.state().pins.add(from);
        let shared = Arc::clone(&self.shared);
        Cursor::new(from, Box::new(move |to| shared.move_pin(id, to)))
    }

    fn remembered(&self, name: &str) -> Option<Bookmark> {
        self.shared.state().cursors.get(name)
    }

    fn bookmarks(&self) -> Vec<(String, Bookmark)> {
        self.shared.state().cursors.all()
    }

    fn remember(&self, name: &str, bookmark: Bookmark) {
        let mut state = self.shared.state();
        state.cursors.set(name, bookmark);
        if state.cursors_moved.is_none() {
            state.cursors_moved = Some(Instant::now());
            self.shared.work.notify_one();
        }
    }

    fn bookmark_kept(&self, name: &str) -> BoxFuture<'_, ()> {
        let name = name.to_owned();
        Box::pin(async move {
            let is_kept = |note: &Note| note.cursors.contains_key(&name);
            self.shared.until_noted(is_kept).await;
        })
    }

    fn forget(&self, name: &str) -> BoxFuture<'_, bool> {
        let mut state = self.shared.state();
        let was_there = state.cursors.forget(name);
        if was_there {
            state.forgot = state.notes_taken + 1;
            state.cursors_moved.get_or_insert_with(Instant::now);
        }
        drop(state);
        Box::pin(async move {
            self.shared.until_noted(|_| true).await;
            was_there
        })
    }

    fn close(&self) {
        self.shared.state().closed = true;
        self.shared.publish();
    }

    fn survives_crash(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Checkpoint {
        self.shared.state().checkpoint.clone()
    }

    fn forgotten(&self) -> Checkpoint {
        let state = self.shared.state();
        let mut settled = state.segments.iter().map(|segment| &segment.settled);
        let before_all = settled.next().cloned().unwrap_or_default();
        // Where the sources began anew since, those positions are not the ones of today.
        let began_anew = settled.any(|settled| *settled == Checkpoint::default());
        if began_anew {
            Checkpoint::default()
        } else {
            before_all
        }
    }

    fn trouble(&self) -> Option<String> {
        self.shared.state().trouble.clone()
    }

    fn failure(&self) -> Option<JournalError> {
        self.shared.state().failure.clone()
    }

    fn undurable(&self) -> Vec<Chunk> {
        let state = self.shared.state();
        let is_lost = |chunk: &&Chunk| chunk.end() > state.durable;
        state.hot.iter().filter(is_lost).cloned().collect()
    }

    fn finish(&self) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let mut finished = self.shared.finished.subscribe();
            self.shared.begin_to_finish();
            let ended = finished.wait_for(Option::is_some).await;
            let ended = ended.expect("it is not dropped before its subscribers");
            ended.clone().expect("it was waited for")
        })
    }
}
