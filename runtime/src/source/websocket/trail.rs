//! The trail: which place of the server our positions are at.
//!
//! Owns the translation, and the file that keeps it between runs. A position counts the records that
//! came; a place is a text that only its server understands, so it is written down beside the count. The
//! journal may be further on than the file: whoever goes on there asks for the last place before it and
//! passes over what it has (I1). Called by the reader, who finds places, and by the committer.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::files;
use crate::sink::websocket::protocol::Place;
use crate::source::SourceError;
use crate::source::position_file::lock;

/// Most places that are known at a time (I4). Where there are more, every other one is forgotten: then
/// more is passed over when a run goes on there.
const MARKS_MAX: usize = 4096;

/// Longest wait of a commit, while a run ends, for its word to leave.
const ACK_TIMEOUT: Duration = Duration::from_millis(500);

/// A position, and its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    at: u64,
    #[serde(flatten)]
    place: Place,
    /// No earlier place leads here: what comes from here on belongs to another numbering.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    anchor: bool,
}

/// What the file has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// All records before are safe.
    settled: u64,
    /// The filter that the count is of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<String>,
    /// Rising.
    marks: VecDeque<Mark>,
}

impl Kept {
    /// Notes a place; places rise.
    fn mark(&mut self, mark: Mark) {
        match self.marks.back_mut().filter(|last| last.at == mark.at) {
            Some(last) => {
                let anchor = last.anchor || mark.anchor;
                *last = Mark { anchor, ..mark };
            }
            None => self.marks.push_back(mark),
        }
        if self.marks.len() > MARKS_MAX {
            self.thin_out(|mark| !mark.anchor);
        }
        if self.marks.len() > MARKS_MAX {
            self.thin_out(|_| true);
        }
    }

    /// Forgets every other one of the marks that may go, but for the first and the last.
    fn thin_out(&mut self, may_go: impl Fn(&Mark) -> bool) {
        let last = self.marks.len() - 1;
        let (mut index, mut goes) = (0, false);
        self.marks.retain(|mark| {
            let inner = index > 0 && index < last;
            index += 1;
            if inner && may_go(mark) {
                goes = !goes;
            }
            !(inner && may_go(mark) && goes)
        });
    }

    /// Forgets what leads to places that nobody goes back to.
    fn settle(&mut self, position: u64) {
        self.settled = self.settled.max(position);
        while self
            .marks
            .get(1)
            .is_some_and(|next| next.at <= self.settled)
        {
            self.marks.pop_front();
        }
    }

    /// What is written down: the place to go on at, and those that no earlier one leads to.
    fn essence(&self) -> Self {
        let mut index = 0;
        let mut essence = self.clone();
        essence.marks.retain(|mark| {
            index += 1;
            index == 1 || mark.anchor
        });
        essence
    }

    /// Where a run begins that is to go on at `position`.
    fn begin(&self, position: u64) -> Begin {
        let before = self.marks.partition_point(|mark| mark.at <= position);
        // Where none is before it, the journal has less than was safe once.
        let mark = self.marks.get(before.saturating_sub(1));
        let at = mark.map_or(position, |mark| mark.at);
        Begin {
            position,
            at,
            place: mark.map(|mark| mark.place.clone()),
            missing: at.saturating_sub(position),
        }
    }
}

/// Where a run begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Begin {
    /// All records before are safe.
    pub(super) position: u64,
    /// The position of `place`: at most `position`, or records are missing.
    pub(super) at: u64,
    /// Where to ask the server to go on; `None` at the very beginning.
    pub(super) place: Option<Place>,
    /// Records between that nobody has.
    pub(super) missing: u64,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Trail(Arc<Mutex<State>>);

struct State {
    kept: Kept,
    begin: Begin,
    /// The file, and its lock; `None` where nothing outlives the run.
    file: Option<(PathBuf, File)>,
}

impl Trail {
    /// A trail that nothing is left of after the run.
    pub(super) fn of_a_run(position: u64) -> Self {
        Self::new(Kept::default(), position, None)
    }

    /// Reads what the last run left in `path`; nothing where there is no file, or with `fresh`.
    /// `resume_at` is where the journal wants to go on.
    ///
    /// # Errors
    /// A file that cannot be read, or is not one of ours; another run that has it.
    pub(super) fn open(
        path: PathBuf,
        keys: &[String],
        fresh: bool,
        resume_at: Option<u64>,
    ) -> Result<Self, SourceError> {
        let failed = |error| {
            let context = format!("remembering the place in {}", path.display());
            SourceError::io(context, error)
        };
        let lock = lock(&path).map_err(failed)?;
        let mut kept: Kept = match std::fs::read(&path) {
            _ if fresh => Kept::default(),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                failed(io::Error::other(format!(
                    "{error} (`--fresh` does without the file)"
                )))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(failed(error)),
        };
        let mut position = resume_at.unwrap_or(kept.settled);
        if kept.keys != keys {
            // What was counted was counted by another filter: nothing can be passed over.
            if let Some(mark) = kept.marks.front_mut() {
                tracing::warn!(
                    "`keys` are others than in the last run: some records may come again"
                );
                mark.at = position;
                kept.marks.truncate(1);
            }
            kept.keys = keys.to_vec();
        } else if let Some(mark) = kept.marks.front()
            && resume_at.is_none()
        {
            position = position.max(mark.at);
        }
        Ok(Self::new(kept, position, Some((path, lock))))
    }

    fn new(kept: Kept, position: u64, file: Option<(PathBuf, File)>) -> Self {
        let begin = kept.begin(position);
        Self(Arc::new(Mutex::new(State { kept, begin, file })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it is held")
    }

    /// Where the run begins.
    pub(super) fn begin(&self) -> Begin {
        self.state().begin.clone()
    }

    /// Position `at` is at `place`.
    pub(super) fn mark(&self, at: u64, place: Place) {
        self.state().kept.mark(Mark {
            at,
            place,
            anchor: false,
        });
    }

    /// The same where no earlier place leads there. Written down before a record of what follows is
    /// given out: a crash after that finds the place again.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub(super) fn anchor(&self, at: u64, place: Place) -> Result<(), SourceError> {
        let mut state = self.state();
        state.kept.mark(Mark {
            at,
            place,
            anchor: true,
        });
        state.save()
    }

    /// All records before `position` are safe.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub(super) fn settle(&self, position: u64) -> Result<(), SourceError> {
        let mut state = self.state();
        state.kept.settle(position);
        state.save()
    }

    /// The last place before which all is safe, and its position; none before `least`.
    pub(super) fn settled(&self, least: u64) -> Option<(u64, Place)> {
        let state = self.state();
        let mark = state.kept.marks.front()?;
        let is_settled = mark.at <= state.kept.settled && mark.at >= least;
        is_settled.then(|| (mark.at, mark.place.clone()))
    }
}

impl State {
    fn save(&self) -> Result<(), SourceError> {
        let Some((path, _lock)) = &self.file else {
            return Ok(());
        };
        serde_json::to_vec_pretty(&self.kept.essence())
            .map_err(io::Error::other)
            .and_then(|bytes| files::replace(path, &bytes))
            .map_err(|error| {
                let context = format!("remembering the place in {}", path.display());
                SourceError::io(context, error)
            })
    }
}

/// How far the server was told. Once nobody reads any more a run is ending, and then a commit waits a
/// moment for its word to leave.
pub(super) struct Acked(watch::Receiver<u64>);

/// What `Acked` is told while batches are still read.
pub(super) const READING: u64 = u64::MAX;

impl Acked {
    pub(super) fn new(told: watch::Receiver<u64>) -> Self {
        Self(told)
    }

    /// Waits until the server was told of `position`, unless batches are still read.
    pub(super) async fn wait(&mut self, position: u64) {
        let told = self.0.wait_for(|told| *told >= position);
        // A server that is gone is told nothing; it will be asked by the place.
        let _ = timeout(ACK_TIMEOUT, told).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(position: &str) -> Place {
        Place {
            position: position.to_owned(),
            since: 0,
        }
    }

    fn trail(folder: &tempfile::TempDir, resume_at: Option<u64>) -> Trail {
        Trail::open(folder.path().join("place.json"), &[], false, resume_at).unwrap()
    }

    fn begin(position: u64, at: u64, text: &str) -> Begin {
        Begin {
            position,
            at,
            place: Some(place(text)),
            missing: at.saturating_sub(position),
        }
    }

    #[test]
    fn i1_a_run_goes_on_at_the_last_place_before_what_is_safe() {
        let folder = tempfile::tempdir().unwrap();
        let first = trail(&folder, None);
        assert_eq!(first.begin(), Begin::default());
        first.anchor(0, place("a")).unwrap();
        first.mark(10, place("b"));
        first.mark(20, place("c"));
        first.settle(15).unwrap();
        assert_eq!(first.settled(0), Some((10, place("b"))));
        assert_eq!(first.settled(11), None);
        drop(first);
        assert_eq!(trail(&folder, None).begin(), begin(15, 10, "b"));
        // The journal is further on, or a little less.
        assert_eq!(trail(&folder, Some(17)).begin(), begin(17, 10, "b"));
        assert_eq!(trail(&folder, Some(12)).begin(), begin(12, 10, "b"));
        // It has lost what was safe.
        assert_eq!(trail(&folder, Some(4)).begin(), begin(4, 10, "b"));
        assert_eq!(trail(&folder, Some(4)).begin().missing, 6);
    }

    /// A place of an old numbering leads to nothing of a new one.
    #[test]
    fn i1_where_a_numbering_begins_is_never_forgotten_before_it_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let first = trail(&folder, None);
        first.anchor(0, place("old.0")).unwrap();
        first.mark(10, place("old.10"));
        first.anchor(12, place("new.0")).unwrap();
        first.mark(20, place("new.8"));
        first.settle(11).unwrap();
        drop(first);
        assert_eq!(trail(&folder, Some(11)).begin(), begin(11, 10, "old.10"));
        assert_eq!(trail(&folder, Some(19)).begin(), begin(19, 12, "new.0"));
        let next = trail(&folder, Some(19));
        next.settle(19).unwrap();
        drop(next);
        assert_eq!(trail(&folder, None).begin(), begin(19, 12, "new.0"));
    }

    #[test]
    fn i4_places_are_bounded_and_the_last_is_always_known() {
        let trail = Trail::of_a_run(0);
        for at in 0..3 * MARKS_MAX as u64 {
            trail.mark(at, place(&format!("p{at}")));
            let state = trail.state();
            assert!(state.kept.marks.len() <= MARKS_MAX);
            assert_eq!(state.kept.marks.back().unwrap().at, at);
            assert_eq!(state.kept.marks.front().unwrap().at, 0);
        }
        let positions = 3 * MARKS_MAX as u64;
        trail.settle(positions).unwrap();
        let (at, last) = trail.settled(0).unwrap();
        assert_eq!((at, last), (positions - 1, place(&format!("p{}", at))));
    }

    #[test]
    fn another_filter_counts_anew_from_the_same_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = || folder.path().join("place.json");
        let first = Trail::open(path(), &["a".to_owned()], false, None).unwrap();
        first.anchor(0, place("a")).unwrap();
        first.mark(10, place("b"));
        first.settle(15).unwrap();
        drop(first);
        let next = Trail::open(path(), &[], false, Some(17)).unwrap();
        assert_eq!(next.begin(), begin(17, 17, "b"));
    }

    #[test]
    fn two_runs_do_not_share_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let _first = trail(&folder, None);
        let second = Trail::open(folder.path().join("place.json"), &[], false, None);
        assert!(second.err().unwrap().to_string().contains("another run"));
    }
}
