//! The journal on disk: segments in a folder, written by a thread of their own.
//!
//! Owns what readers and the pipeline see of it: positions, the durable mark, retention, pins, cursors,
//! back-pressure. Does no I/O but to open it and to read what is in memory no more; what is on the disk
//! is the log's (`log`, `recovery`), and when it is written the writer's (`writer`). The pipeline makes
//! one; everybody else sees [`Journal`](super::Journal) (`interface`).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use super::cursors::Cursors;
use super::pins::Pins;
use super::{Chunk, JournalError, Marks, Position, Read, publish};
use crate::checkpoint::{Checkpoint, Delta};
use folder::{Folder, RealFolder};
use log::Entry;
use opening::{lock, open_log, unusable};
use segment::Segment;

mod folder;
mod format;
mod interface;
mod log;
mod notes;
mod opening;
mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// Chunks that are kept in memory for readers near the head, in bytes (I4).
const HOT_BYTES_MAX: u64 = 4 << 20;
/// Appended and not durable yet, in bytes (I4); one chunk may be larger.
const PENDING_BYTES_MAX: u64 = 8 << 20;
/// Reads of the disk whose chunks are kept for those who come next (I4).
const COLD_READS_MAX: usize = 8;

/// When what was appended is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// At once; what comes meanwhile is synced together.
    Batch,
    /// So often; readers and sources wait for it.
    Interval(Duration),
    /// When a segment is full and at the end; what the kernel took counts as durable.
    None,
}

/// How a journal on disk is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder.
    pub path: PathBuf,
    /// Most bytes (I4).
    pub bytes_max: u64,
    /// Oldest record that is kept for readers that come late.
    pub age_max: Option<Duration>,
    /// Keep what every pin has passed, for readers that come late. Without it a segment goes as soon as
    /// there are pins and all have passed it.
    pub history: bool,
    /// When it is synced.
    pub sync: Sync,
    /// Forget how far the sources were; the records stay.
    pub fresh: bool,
    /// What the frames are, in words: what is there as something else cannot be read on as this.
    pub frames: &'static str,
}

/// A journal on disk. Dropping it without [`finish`](super::Journal::finish) is a crash to it.
pub struct Disk {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// What the writer and everybody else share.
struct Shared {
    options: Options,
    epoch: u64,
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Woken when an append may have room.
    freed: Notify,
    marks: watch::Sender<Marks>,
    /// The cursors as they are written down: what the next process finds after a crash.
    noted: watch::Sender<Note>,
    /// How it ended, once it has.
    finished: watch::Sender<Option<Result<(), JournalError>>>,
    /// Chunks of the last reads of the disk, newest last.
    cold: Mutex<VecDeque<Vec<Chunk>>>,
    /// Held while it is open: two processes would write over each other.
    _lock: Option<std::fs::File>,
}

/// The cursors as they were at some time.
struct Note {
    /// How many were taken before it, and this one.
    number: u64,
    cursors: notes::Written,
}

struct State {
    segments: VecDeque<Arc<Segment>>,
    /// The newest chunks; all that is not durable is among them.
    hot: VecDeque<Chunk>,
    hot_bytes: u64,
    /// For the writer to take.
    queue: VecDeque<Entry>,
    /// Bytes in the queue.
    queued_bytes: u64,
    /// Bytes that the writer has taken and that are not durable.
    taken_bytes: u64,
    /// Bytes of the segments.
    disk_bytes: u64,
    /// Bytes that an append waits to have room for.
    wanted_bytes: u64,
    head: Position,
    durable: Position,
    /// Settled by all that was appended.
    checkpoint: Checkpoint,
    pins: Pins,
    cursors: Cursors,
    /// Since when cursors wait to be written down.
    cursors_moved: Option<Instant>,
    /// Somebody waits for them to be.
    cursors_awaited: bool,
    /// Notes of the cursors that were taken to be written down.
    notes_taken: u64,
    /// The first note without what was forgotten last: those before it may still have it.
    forgot: u64,
    closed: bool,
    finishing: bool,
    abandoned: bool,
    trouble: Option<String>,
    failure: Option<JournalError>,
}

impl Disk {
    /// Opens the journal in the folder, or begins one. Blocking, for as long as it takes to walk through
    /// what is there.
    ///
    /// # Errors
    /// The folder cannot be used, is in use, or is damaged.
    pub fn open(options: Options) -> Result<Self, JournalError> {
        let path = options.path.clone();
        let lock = lock(&path)?;
        Self::over(Arc::new(RealFolder { path }), Some(lock), options)
    }

    fn over(
        folder: Arc<dyn Folder>,
        lock: Option<std::fs::File>,
        options: Options,
    ) -> Result<Self, JournalError> {
        let (log, cursors) = open_log(&folder, &options)?;
        let head = log.safe();
        let state = State {
            segments: log.segments().clone(),
            hot: VecDeque::new(),
            hot_bytes: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            taken_bytes: 0,
            disk_bytes: log.bytes(),
            wanted_bytes: 0,
            head,
            durable: head,
            checkpoint: log.checkpoint().clone(),
            pins: Pins::default(),
            cursors,
            cursors_moved: None,
            cursors_awaited: false,
            notes_taken: 0,
            forgot: 0,
            closed: false,
            finishing: false,
            abandoned: false,
            trouble: None,
            failure: None,
        };
        let shared = Arc::new(Shared {
            epoch: log.epoch(),
            marks: watch::Sender::new(state.marks()),
            noted: watch::Sender::new(Note {
                number: 0,
                cursors: notes::written(&state.cursors),
            }),
            state: Mutex::new(state),
            work: Condvar::new(),
            freed: Notify::new(),
            finished: watch::Sender::new(None),
            cold: Mutex::default(),
            options,
            _lock: lock,
        });
        let of_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer::Writer::new(of_writer, log, folder).run());
        let writer = writer.map_err(|error| {
            unusable(
                &shared.options.path,
                format!("starting its thread: {error}"),
            )
        })?;
        Ok(Self {
            shared,
            writer: Some(writer),
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.state().abandoned = true;
        self.shared.work.notify_all();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join(); // it panicked: the run has failed already
        }
    }
}

impl State {
    fn tail(&self) -> Position {
        self.segments
            .front()
            .map_or(self.head, |segment| segment.first)
    }

    /// Bytes that are appended and not durable.
    fn pending_bytes(&self) -> u64 {
        self.queued_bytes + self.taken_bytes
    }

    fn marks(&self) -> Marks {
        Marks {
            tail: self.tail(),
            durable: self.durable,
            head: self.head,
            // Whoever reads to the end must have seen it all.
            closed: self.closed && self.durable == self.head,
        }
    }

    /// Whether every pin has passed the oldest segment, and another one is there to write to.
    fn oldest_is_free(&self) -> bool {
        let next = self.segments.get(1);
        next.is_some_and(|next| self.pins.have_passed(next.first))
    }

    /// Whether the oldest segment is to go (I4).
    fn oldest_is_to_go(&self, options: &Options, now_ms: u64) -> bool {
        // Without history all is kept for a cursor. One that is gone has not read what is left.
        let is_kept = !options.history && self.pins.is_empty();
        if is_kept || self.finishing || !self.oldest_is_free() {
            return false;
        }
        let needed = self.disk_bytes + self.pending_bytes() + self.wanted_bytes;
        let newest_ms = self.segments[0].extent().newest_ms;
        let age = Duration::from_millis(now_ms.saturating_sub(newest_ms));
        let is_aged = options.age_max.is_some_and(|age_max| age > age_max);
        let is_read = !options.history;
        is_read || is_aged || needed > options.bytes_max
    }

    fn trim_hot(&mut self) {
        while self.hot_bytes > HOT_BYTES_MAX
            && self.hot.len() > 1
            && self.hot[0].end() <= self.durable
        {
            let chunk = self.hot.pop_front().expect("there are two");
            self.hot_bytes -= chunk.bytes();
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds the journal")
    }

    fn publish(&self) {
        publish(&self.marks, || self.state().marks());
    }

    /// Waits until the cursors that are written down are as `is_so` says, and have nothing that was forgotten
    /// before.
    async fn until_noted(&self, is_so: impl Fn(&Note) -> bool) {
        let mut noted = self.noted.subscribe();
        let least = self.state().forgot;
        let is_so = |note: &Note| note.number >= least && is_so(note);
        if is_so(&noted.borrow()) {
            return;
        }
        self.state().cursors_awaited = true;
        self.work.notify_one();
        let noted = noted.wait_for(is_so).await;
        drop(noted.expect("it is not dropped before its subscribers"));
    }

    /// The journal cannot go on: who waits is told.
    fn fail(&self, error: JournalError) {
        let mut state = self.state();
        if state.failure.is_none() {
            tracing::error!(%error, "the journal cannot go on");
            state.failure = Some(error);
        }
        drop(state);
        self.freed.notify_one();
        self.marks.send_modify(|_| {});
    }

    /// Appends if there is room; else gives the chunk back.
    fn try_append(
        &self,
        mut chunk: Chunk,
        settled: Vec<Delta>,
    ) -> Result<Result<Position, (Chunk, Vec<Delta>)>, JournalError> {
        let bytes = format::record_bytes(&chunk, &settled);
        let bytes_max = self.options.bytes_max / 2; // a full segment may be there beside it
        let mut state = self.state();
        if let Some(error) = &state.failure {
            return Err(error.clone());
        }
        if state.closed {
            return Err(JournalError::Closed);
        }
        if bytes > bytes_max {
            return Err(JournalError::TooLarge { bytes, bytes_max });
        }
        let pending_bytes = state.pending_bytes();
        let is_full = state.disk_bytes + pending_bytes + bytes > self.options.bytes_max;
        let is_slow = pending_bytes > 0 && pending_bytes + bytes > PENDING_BYTES_MAX;
        if is_full || is_slow {
            state.wanted_bytes = bytes;
            drop(state);
            self.work.notify_one();
            return Ok(Err((chunk, settled))); // I4: full is back-pressure, never loss
        }
        for delta in &settled {
            state.checkpoint.settle(delta)?;
        }
        state.wanted_bytes = 0;
        chunk.first = state.head;
        chunk.made_at = Some(Instant::now());
        state.head = chunk.end();
        state.queued_bytes += bytes;
        if !chunk.frames.is_empty() {
            state.hot_bytes += chunk.bytes();
            state.hot.push_back(chunk.clone());
        }
        state.queue.push_back(Entry {
            chunk,
            settled,
            made_at_ms: now_ms(),
        });
        let head = state.head;
        drop(state);
        self.publish();
        self.work.notify_one();
        Ok(Ok(head))
    }

    fn begin_to_finish(&self) {
        let mut state = self.state();
        state.closed = true;
        state.finishing = true;
        drop(state);
        self.work.notify_all();
    }

    fn move_pin(&self, id: u64, to: Option<Position>) {
        let mut state = self.state();
        state.pins.moved(id, to);
        if state.oldest_is_to_go(&self.options, now_ms()) {
            self.work.notify_one();
        }
    }

    /// What is in memory no more. Short: one read of what the index leads to.
    fn read_cold(&self, segment: &Segment, from: Position) -> Read {
        let cold = || self.cold.lock().expect("nothing panics while it is held");
        let end = |chunks: &[Chunk]| chunks.last().map_or(Position::default(), Chunk::end);
        let find = |chunks: &Vec<Chunk>| {
            let holds = chunks[0].first <= from && from < end(chunks);
            let index = || chunks.partition_point(|chunk| chunk.end() <= from);
            holds.then(|| chunks[index()].clone())
        };
        if let Some(chunk) = cold().iter().rev().find_map(find) {
            return Read::Chunk(chunk);
        }
        match segment.read(from) {
            Ok(chunks) => {
                let chunk = chunks[0].clone();
                let mut cold = cold();
                cold.push_back(chunks);
                if cold.len() > COLD_READS_MAX {
                    cold.pop_front();
                }
                Read::Chunk(chunk)
            }
            Err(why) => {
                let file = segment::name(segment.sequence);
                self.fail(JournalError::Damaged {
                    path: self.options.path.display().to_string(),
                    what: format!("{file}: {why}"),
                });
                Read::Wait // for ever: nothing is passed over
            }
        }
    }
}
