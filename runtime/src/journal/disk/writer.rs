//! The writer: the one thread that writes, syncs and drops.
//!
//! Owns when: at once or by the interval, again after a failure, and cursors some time after they moved,
//! before what only they have passed is dropped.
//! What it does is the log's. While one sync runs, appends gather for the next. Started when the journal
//! is opened; ends when it is finished or dropped.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::folder::{Folder, write_full};
use super::log::Log;
use super::segment::Segment;
use super::{Note, Shared, State, Sync, notes, now_ms};
use crate::journal::JournalError;

/// Cursors are written down so long after they moved.
const CURSORS_AFTER: Duration = Duration::from_millis(200);
/// Waits between two tries of what failed.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// How long the end of a run waits for a disk that fails.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// A disk that fails again so soon after it did well is not told again.
const QUIET_FOR: Duration = Duration::from_secs(10);
/// A file that holds some room on the disk, so that a full one can still take the segment after which
/// those before it can go.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 64 << 10;
/// How often retention by age is looked at.
const AGE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    folder: Arc<dyn Folder>,
    /// The cursors could not be written down the last time.
    noting_fails: bool,
    synced_at: Instant,
    /// After a failure: when to try again, and how long to wait after the next one.
    retry: Option<(Instant, Duration)>,
    /// When trouble was last over.
    well_since: Option<Instant>,
    has_reserve: bool,
    /// After a segment could not be removed: when to try again.
    drop_after: Option<Instant>,
    /// Since when it is to end.
    finishing_since: Option<Instant>,
}

/// What is new of the disk's state.
enum News {
    Trouble(String),
    Over,
}

/// What there is to do now.
#[derive(Default)]
struct Work {
    write: bool,
    sync: bool,
    drop: bool,
    cursors: Option<Note>,
    finish: bool,
}

/// Takes the cursors to be written down: they wait no more.
fn to_note(state: &mut State) -> Note {
    state.cursors_moved = None;
    state.cursors_awaited = false;
    state.notes_taken += 1;
    Note {
        number: state.notes_taken,
        cursors: notes::written(&state.cursors),
    }
}

impl Work {
    fn is_any(&self) -> bool {
        self.write || self.sync || self.drop || self.finish || self.cursors.is_some()
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, log: Log, folder: Arc<dyn Folder>) -> Self {
        Self {
            shared,
            log,
            folder,
            noting_fails: false,
            synced_at: Instant::now(),
            retry: None,
            well_since: None,
            has_reserve: false,
            drop_after: None,
            finishing_since: None,
        }
    }

    /// Works until the journal is finished or dropped.
    pub(super) fn run(mut self) {
        self.reserve();
        loop {
            let Some(work) = self.wait() else {
                return; // dropped: as after a crash, what is not durable never was
            };
            if work.write || work.sync {
                self.write(work.sync);
            }
            if let Some(cursors) = work.cursors {
                self.write_cursors(cursors);
            }
            if work.drop {
                self.drop_segments();
            }
            if work.finish && self.finish() {
                return;
            }
        }
    }

    /// Waits for work; `None` when the journal is dropped.
    fn wait(&mut self) -> Option<Work> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        loop {
            if state.abandoned {
                return None;
            }
            let now = Instant::now();
            let (work, until) = self.work(&mut state, now);
            if work.is_any() {
                self.log.give(state.queue.drain(..));
                state.taken_bytes += std::mem::take(&mut state.queued_bytes);
                return Some(work);
            }
            state = wait_until(&shared, state, until.saturating_duration_since(now));
        }
    }

    /// What there is to do, and when to look again where there is nothing.
    fn work(&mut self, state: &mut State, now: Instant) -> (Work, Instant) {
        let mut until = now + AGE_EVERY;
        let mut work = Work {
            drop: self.drop_after.is_none_or(|after| now >= after)
                && state.oldest_is_to_go(&self.shared.options, now_ms()),
            ..Work::default()
        };
        if state.finishing {
            self.finishing_since.get_or_insert(now);
        }
        match self.retry {
            Some((at, _)) if now < at => until = until.min(at),
            _ => {
                let has_more = !state.queue.is_empty();
                let has_unsafe = has_more || !self.log.is_safe();
                work.write = has_more || (self.retry.is_some() && has_unsafe);
                work.sync = has_unsafe && self.is_sync_due(state, now, &mut until);
                work.finish = state.finishing;
            }
        }
        if let Some(moved) = state.cursors_moved {
            let due = moved + CURSORS_AFTER;
            if now >= due || state.cursors_awaited || state.finishing {
                work.cursors = Some(to_note(state));
            } else {
                until = until.min(due);
            }
        }
        (work, until)
    }

    fn is_sync_due(&self, state: &State, now: Instant, until: &mut Instant) -> bool {
        match self.shared.options.sync {
            Sync::Batch => true,
            Sync::None => state.finishing,
            Sync::Interval(interval) => {
                let due = self.synced_at + interval;
                *until = (*until).min(due);
                now >= due || state.finishing || state.wanted_bytes > 0
            }
        }
    }

    /// Writes what was given, and syncs it if that is due.
    fn write(&mut self, sync: bool) {
        let written = self.log.write().and_then(|()| match sync {
            true => self.log.sync(),
            false => Ok(()),
        });
        if sync {
            self.synced_at = Instant::now();
        }
        let news = match written {
            Ok(()) => self.retry.take().map(|_| News::Over),
            Err(error) => self.fail(error.to_string()),
        };
        if matches!(news, Some(News::Over)) {
            self.reserve();
        }
        self.settle(news);
    }

    /// Sets room aside. Without it a full disk may need somebody who makes room.
    fn reserve(&mut self) {
        let reserved = self.folder.create(RESERVE).and_then(|file| {
            write_full(&*file, &vec![0; RESERVE_BYTES], 0)?;
            file.sync()
        });
        self.has_reserve = true;
        if let Err(error) = reserved {
            tracing::debug!(%error, "no room is set aside for the journal");
            self.give_back();
        }
    }

    /// Gives the room back; whether there was some.
    fn give_back(&mut self) -> bool {
        std::mem::take(&mut self.has_reserve) && self.folder.remove(RESERVE).is_ok()
    }

    /// Notes a failure and when to try again; returns what is new to tell.
    fn fail(&mut self, error: String) -> Option<News> {
        let wait = self.retry.map_or(RETRY_AFTER, |(_, wait)| wait);
        let is_new = self.retry.is_none();
        let next = (wait * 2).min(RETRY_AFTER_MAX);
        let wait = if self.give_back() {
            Duration::ZERO
        } else {
            wait
        };
        self.retry = Some((Instant::now() + wait, next));
        is_new.then_some(News::Trouble(error))
    }

    /// Lets everybody know what the log has now, and what is new of the disk.
    fn settle(&mut self, news: Option<News>) {
        let ends = |segments: &VecDeque<Arc<Segment>>| {
            let sequence = |segment: &Arc<Segment>| segment.sequence;
            (
                segments.front().map(sequence),
                segments.back().map(sequence),
            )
        };
        let mut state = self.shared.state();
        state.durable = self.log.safe();
        if ends(&state.segments) != ends(self.log.segments()) {
            state.segments.clone_from(self.log.segments());
        }
        state.disk_bytes = self.log.bytes();
        state.taken_bytes = self.log.pending_bytes();
        state.trim_hot();
        let path = self.shared.options.path.display();
        match news {
            None => {}
            Some(News::Trouble(error)) => {
                if self
                    .well_since
                    .is_none_or(|since| since.elapsed() > QUIET_FOR)
                {
                    tracing::error!(
                        %path,
                        error,
                        "the journal cannot be written; the source is held back until it can"
                    );
                }
                state.trouble = Some(error);
            }
            Some(News::Over) => {
                if self
                    .well_since
                    .is_none_or(|since| since.elapsed() > QUIET_FOR)
                {
                    tracing::info!(%path, "the journal can be written again");
                }
                self.well_since = Some(Instant::now());
                state.trouble = None;
            }
        }
        drop(state);
        self.shared.publish();
        self.shared.freed.notify_one();
    }

    fn drop_segments(&mut self) {
        loop {
            let mut state = self.shared.state();
            if !state.oldest_is_to_go(&self.shared.options, now_ms()) {
                return;
            }
            // After a crash a cursor must not stand before records that its reader had acknowledged and
            // that are gone: it would be told that it missed them. Where this fails, a full disk needs
            // the room more.
            let is_behind = self.has_noted_behind(&state);
            let cursors = is_behind.then(|| to_note(&mut state));
            drop(state);
            if let Some(cursors) = cursors {
                self.write_cursors(cursors);
            }
            if let Err(error) = self.log.drop_oldest() {
                if self.drop_after.is_none() {
                    tracing::warn!(%error, "an old segment of the journal cannot be removed");
                }
                self.drop_after = Some(Instant::now() + RETRY_AFTER_MAX);
                return;
            }
            self.drop_after = None;
            if self.retry.is_some() {
                self.retry = Some((Instant::now(), RETRY_AFTER)); // there may be room now
            }
            self.settle(None);
        }
    }

    /// Whether a cursor has moved and is written down nowhere, or before what stays when the oldest segment
    /// goes.
    fn has_noted_behind(&self, state: &State) -> bool {
        let Some(next) = state.segments.get(1) else {
            return false;
        };
        let noted = self.shared.noted.borrow();
        state.cursors_moved.is_some()
            && state.cursors.iter().any(|(name, bookmark)| {
                let noted = noted.cursors.get(name).map(notes::Noted::at);
                noted.is_none_or(|noted| noted < next.first.0 && noted < bookmark.at.0)
            })
    }

    fn write_cursors(&mut self, note: Note) {
        match notes::write(&*self.folder, notes::CURSORS, &note.cursors) {
            Ok(()) => {
                self.noting_fails = false;
                self.shared.noted.send_replace(note);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.noting_fails, true) {
                    tracing::warn!(%error, "where named readers are cannot be written down; trying again");
                }
                self.shared
                    .state()
                    .cursors_moved
                    .get_or_insert_with(Instant::now);
            }
        }
    }

    /// Leaves the journal to the next run; `false` while there is hope that the disk comes back.
    fn finish(&mut self) -> bool {
        let since = self.finishing_since.expect("it is finishing");
        let left = self.leave();
        if let Err(why) = &left
            && since.elapsed() < FINISH_WITHIN
        {
            let news = self.fail(why.clone());
            self.settle(news);
            return false;
        }
        let state = self.shared.state();
        let records = state.head.since(state.durable);
        let ended = left.map_err(|why| JournalError::Undurable {
            records,
            why: state.trouble.clone().unwrap_or(why),
        });
        drop(state);
        self.shared.finished.send_replace(Some(ended));
        true
    }

    fn leave(&mut self) -> Result<(), String> {
        let synced = self.log.sync();
        synced.map_err(|error| error.to_string())?;
        if !self.log.is_safe() {
            return Err("the disk takes nothing".to_owned());
        }
        let state = notes::State {
            synced: self.shared.options.sync != Sync::None,
            boot: notes::boot(),
            clean: self.log.is_synced().then(|| self.log.safe().0),
            frames: self.shared.options.frames.to_owned(),
        };
        let written = notes::write(&*self.folder, notes::STATE, &state);
        written.map_err(|error| error.to_string())
    }
}

fn wait_until<'a>(
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
    wait: Duration,
) -> MutexGuard<'a, State> {
    let waited = shared.work.wait_timeout(state, wait);
    waited.expect("no code panics while it holds the journal").0
}
