//! When new frames go out: at once on an idle line, then at most once a flush interval.
//!
//! Owns the mark up to which subscribers may start to send. One task moves it for all of them, so
//! coalescing costs nothing per subscriber. Whoever is woken sends all that the journal has.

use std::time::Duration;

use tokio::sync::watch;

use crate::journal::Marks;
use crate::sink::Stop;

/// What subscribers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal {
    /// The journal's marks, as far as they are released.
    pub(super) marks: Marks,
    /// Finish and close.
    pub(super) draining: bool,
    /// Leave at once.
    pub(super) aborted: bool,
}

/// The one signal of all subscribers.
pub(super) struct Released(watch::Sender<Signal>);

impl Released {
    /// Releases what `marks` show now.
    pub(super) fn new(marks: Marks) -> Self {
        Self(watch::Sender::new(Signal {
            marks,
            draining: false,
            aborted: false,
        }))
    }

    /// A subscriber's view.
    pub(super) fn watch(&self) -> watch::Receiver<Signal> {
        self.0.subscribe()
    }

    /// Follows the journal until the run is aborted. The first change after a pause passes at once;
    /// what follows within `flush` passes together.
    pub(super) async fn follow(
        &self,
        mut marks: watch::Receiver<Marks>,
        stop: &Stop,
        flush: Duration,
    ) {
        let follow = async {
            loop {
                self.pass(*marks.borrow_and_update());
                if !flush.is_zero() {
                    tokio::time::sleep(flush).await;
                }
                if marks.changed().await.is_err() {
                    // The journal is gone: nothing changes any more.
                    std::future::pending::<()>().await;
                }
            }
        };
        let drain = async {
            stop.drain.cancelled().await;
            self.0.send_modify(|signal| signal.draining = true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = follow => (),
            () = drain => (),
            () = stop.abort.cancelled() => self.0.send_modify(|signal| signal.aborted = true),
        }
    }

    fn pass(&self, marks: Marks) {
        self.0.send_if_modified(|signal| {
            let modified = signal.marks != marks;
            signal.marks = marks;
            modified
        });
    }
}
