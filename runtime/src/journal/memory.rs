//! The journal in memory: a bounded queue of shared chunks.
//!
//! Owns retention by bytes and age, pins, and the wait for space. Nothing outlives the process. The
//! pipeline makes one; everybody else sees [`Journal`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::cursors::Cursors;
use super::pins::Pins;
use super::{Bookmark, Chunk, Cursor, Journal, JournalError, Marks, Position, Read, publish};
use crate::checkpoint::{Checkpoint, Delta};
use crate::driver::BoxFuture;

/// What a memory journal keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Most bytes (I4).
    pub bytes_max: u64,
    /// Oldest chunk kept for readers that come late.
    pub age_max: Option<Duration>,
    /// Keep what every pin has passed, for readers that come late. Without it a chunk goes as soon
    /// as it is confirmed.
    pub history: bool,
}

/// A journal in memory.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    retention: Retention,
    epoch: u64,
    state: Mutex<State>,
    marks: watch::Sender<Marks>,
    /// Woken when a pin moves: an append may have room now.
    freed: Notify,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Chunk>,
    /// What each of the chunks settles, with the appends without frames behind it.
    settled: VecDeque<Vec<Delta>>,
    /// Settled before the oldest chunk.
    forgotten: Checkpoint,
    bytes: u64,
    head: Position,
    closed: bool,
    pins: Pins,
    cursors: Cursors,
}

impl State {
    fn tail(&self) -> Position {
        self.chunks.front().map_or(self.head, |chunk| chunk.first)
    }

    /// Whether retention may drop the oldest chunk.
    fn oldest_is_free(&self) -> bool {
        let oldest = self.chunks.front();
        oldest.is_some_and(|oldest| self.pins.have_passed(oldest.end()))
    }

    fn marks(&self) -> Marks {
        Marks {
            tail: self.tail(),
            durable: self.head,
            head: self.head,
            closed: self.closed,
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.bytes -= chunk.bytes();
            self.settled
                .pop_front()
                .into_iter()
                .for_each(|settled| self.forget(settled));
        }
    }

    fn forget(&mut self, settled: Vec<Delta>) {
        for delta in settled {
            let forgotten = self.forgotten.settle(&delta);
            debug_assert!(forgotten.is_ok(), "the books settle each position once");
        }
    }

    /// What an append without frames settles goes when the chunk before it does.
    fn settle(&mut self, deltas: Vec<Delta>) {
        let Some(newest) = self.settled.back_mut() else {
            return self.forget(deltas);
        };
        for delta in deltas {
            let is_next = |before: &&mut Delta| {
                before.to == delta.from && before.partition == delta.partition
            };
            match newest.iter_mut().find(is_next) {
                Some(before) => before.to = delta.to,
                None => newest.push(delta),
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds the journal")
    }

    /// Drops what nobody may still ask for.
    fn trim(&self, state: &mut State) {
        let aged = |chunk: &Chunk| match (self.retention.age_max, chunk.made_at) {
            (Some(age_max), Some(made_at)) => made_at.elapsed() > age_max,
            _ => false,
        };
        while state.oldest_is_free()
            && (!self.retention.history || state.chunks.front().is_some_and(aged))
        {
            state.drop_oldest();
        }
    }

    fn publish(&self) {
        publish(&self.marks, || self.state().marks());
    }

    fn move_pin(&self, id: u64, to: Option<Position>) {
        let mut state = self.state();
        state.pins.moved(id, to);
        self.trim(&mut state);
        drop(state);
        self.publish();
        self.freed.notify_one();
    }

    /// Appends if there is room; else gives the chunk back.
    fn try_append(
        &self,
        mut chunk: Chunk,
        settled: &mut Vec<Delta>,
    ) -> Result<Result<Position, Chunk>, JournalError> {
        let bytes = chunk.bytes();
        let bytes_max = self.retention.bytes_max;
        let mut state = self.state();
        if state.closed {
            return Err(JournalError::Closed);
        }
        if bytes > bytes_max {
            return Err(JournalError::TooLarge { bytes, bytes_max });
        }
        while state.bytes + bytes > bytes_max && state.oldest_is_free() {
            state.drop_oldest();
        }
        if state.bytes + bytes > bytes_max {
            return Ok(Err(chunk)); // I4: full is back-pressure, never loss
        }
        chunk.first = state.head;
        chunk.made_at = Some(Instant::now());
        state.head = chunk.end();
        state.bytes += bytes;
        state.chunks.push_back(chunk);
        state.settled.push_back(std::mem::take(settled));
        let head = state.head;
        self.trim(&mut state);
        drop(state);
        self.publish();
        Ok(Ok(head))
    }
}

impl Memory {
    /// An empty journal; its epoch is drawn at random, because its positions die with it.
    pub fn new(retention: Retention) -> Self {
        Self {
            shared: Arc::new(Shared {
                retention,
                epoch: fastrand::u64(1..),
                state: Mutex::default(),
                marks: watch::Sender::new(Marks::default()),
                freed: Notify::new(),
            }),
        }
    }
}

impl Journal for Memory {
    fn append(
        &self,
        chunk: Chunk,
        settled: Vec<Delta>,
    ) -> BoxFuture<'_, Result<Position, JournalError>> {
        Box::pin(async move {
            let (mut chunk, mut settled) = (chunk, settled);
            if chunk.frames.is_empty() {
                let mut state = self.shared.state();
                state.settle(settled);
                return Ok(state.head);
            }
            loop {
                let freed = self.shared.freed.notified();
                match self.shared.try_append(chunk, &mut settled)? {
                    Ok(head) => return Ok(head),
                    Err(given_back) => chunk = given_back,
                }
                freed.await;
            }
        })
    }

    fn read(&self, from: Position) -> Read {
        let state = self.shared.state();
        if from >= state.head {
            return Read::Wait;
        }
        let tail = state.tail();
        if from < tail {
            return Read::Lost { tail };
        }
        let index = state.chunks.partition_point(|chunk| chunk.end() <= from);
        Read::Chunk(state.chunks[index].clone())
    }

    fn marks(&self) -> watch::Receiver<Marks> {
        self.shared.marks.subscribe()
    }

    fn bytes(&self) -> u64 {
        self.shared.state().bytes
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
        self.shared.state().cursors.set(name, bookmark);
    }

    fn forget(&self, name: &str) -> BoxFuture<'_, bool> {
        let was_there = self.shared.state().cursors.forget(name);
        Box::pin(async move { was_there })
    }

    fn close(&self) {
        self.shared.state().closed = true;
        self.shared.publish();
    }

    fn survives_crash(&self) -> bool {
        false
    }

    fn forgotten(&self) -> Checkpoint {
        self.shared.state().forgotten.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn chunk(records: usize) -> Chunk {
        testing::chunk(vec!["x"; records])
    }

    fn memory(bytes_max: u64, history: bool) -> Memory {
        Memory::new(Retention {
            bytes_max,
            age_max: None,
            history,
        })
    }

    fn found(read: &Read) -> Option<(Position, Position)> {
        match read {
            Read::Chunk(chunk) => Some((chunk.first, chunk.end())),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_position_inside_a_chunk_finds_it() {
        let journal = memory(1 << 20, true);
        for _ in 0..3 {
            journal.append(chunk(10), Vec::new()).await.unwrap();
        }
        assert_eq!(
            found(&journal.read(Position(15))),
            Some((Position(10), Position(20)))
        );
        assert!(matches!(journal.read(Position(30)), Read::Wait));
    }

    #[tokio::test]
    async fn old_chunks_give_way_and_the_reader_is_told() {
        let journal = memory(chunk(10).bytes() * 2, true);
        for _ in 0..5 {
            journal.append(chunk(10), Vec::new()).await.unwrap();
        }
        assert!(matches!(
            journal.read(Position(5)),
            Read::Lost { tail: Position(30) }
        ));
        assert_eq!(journal.marks().borrow().tail, Position(30));
    }

    #[tokio::test]
    async fn i4_a_full_journal_waits_for_its_pin() {
        let journal = memory(chunk(10).bytes() * 2, false);
        let mut pin = journal.pin(Position(0));
        journal.append(chunk(10), Vec::new()).await.unwrap();
        journal.append(chunk(10), Vec::new()).await.unwrap();
        let mut third = journal.append(chunk(10), Vec::new());
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        assert!(third.as_mut().poll(&mut context).is_pending());
        pin.advance(Position(9));
        assert!(
            third.as_mut().poll(&mut context).is_pending(),
            "one record is still unconfirmed"
        );
        pin.advance(Position(10));
        third.await.unwrap();
        assert_eq!(journal.marks().borrow().tail, Position(10));
    }

    #[tokio::test]
    async fn without_history_a_confirmed_chunk_goes_at_once() {
        let journal = memory(1 << 20, false);
        let mut pin = journal.pin(Position(0));
        journal.append(chunk(10), Vec::new()).await.unwrap();
        pin.advance(Position(10));
        assert_eq!(journal.marks().borrow().tail, Position(10));
        assert_eq!(journal.shared.state().bytes, 0);
    }

    #[tokio::test]
    async fn what_is_too_old_goes_with_the_next_append_unless_it_is_pinned() {
        let journal = Memory::new(Retention {
            bytes_max: 1 << 20,
            age_max: Some(Duration::ZERO),
            history: true,
        });
        let mut pin = journal.pin(Position(0));
        for _ in 0..3 {
            journal.append(chunk(10), Vec::new()).await.unwrap();
        }
        assert_eq!(journal.marks().borrow().tail, Position(0), "pinned");
        pin.advance(Position(20));
        assert_eq!(journal.marks().borrow().tail, Position(20));
        drop(pin);
        assert_eq!(journal.marks().borrow().tail, Position(30));
    }

    #[tokio::test]
    async fn a_chunk_larger_than_the_journal_is_refused() {
        let journal = memory(64, true);
        let error = journal.append(chunk(100), Vec::new()).await.unwrap_err();
        assert!(matches!(
            error,
            JournalError::TooLarge { bytes_max: 64, .. }
        ));
    }
}
