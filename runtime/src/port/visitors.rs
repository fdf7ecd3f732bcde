//! Connections that have not become subscribers yet, and who of them gives way.
//!
//! Owns their bound. A request takes milliseconds; whoever is still here when there is no place left has
//! been silent, on purpose or not, and the one that came first gives way to the one that comes. So
//! connections that say nothing keep nobody out. Called by the accept loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::news::News;

/// So many that are done may be looked through in vain, beside as many as are served.
const DONE_MAX: usize = 64;

/// How often it is looked, where all are busy, whether one is no more.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// See the module.
pub struct Visitors {
    places: Arc<Semaphore>,
    places_max: usize,
    /// Oldest first; those that are done are taken out from time to time.
    here: VecDeque<(AbortHandle, Busy)>,
    /// That there is no place left goes on as long as a flood does.
    full: News,
}

/// Set while a visitor is at work, and must not be turned out.
pub type Busy = Arc<AtomicBool>;

impl Visitors {
    /// At most so many at a time (I4).
    pub fn new(places_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            here: VecDeque::new(),
            full: News::default(),
        }
    }

    /// Serves one more, in a task of its own, which may be turned out at any time.
    pub async fn admit(&mut self, serve: impl Future<Output = ()> + Send + 'static) {
        self.admit_busy(Busy::default(), serve).await;
    }

    /// The same with one that is not turned out while it is busy. Waits where all are.
    pub async fn admit_busy(
        &mut self,
        busy: Busy,
        serve: impl Future<Output = ()> + Send + 'static,
    ) {
        let places = Arc::clone(&self.places);
        let place = match places.try_acquire_owned() {
            Ok(place) => place,
            Err(_) => self.make_place().await,
        };
        let task = tokio::spawn(async move {
            serve.await;
            drop(place);
        });
        self.here.push_back((task.abort_handle(), busy));
        // A handle keeps the memory of its task, so those that are done are not left to gather.
        let serving = self.places_max - self.places.available_permits();
        if self.here.len() > 2 * serving + DONE_MAX {
            self.here.retain(|(task, _)| !task.is_finished());
        }
    }

    async fn make_place(&mut self) -> OwnedSemaphorePermit {
        if self.full.is_news() {
            tracing::warn!(
                "all {} places for connections are taken: the one that was silent for longest gives \
                 way to each that comes",
                self.places_max
            );
        }
        loop {
            self.turn_out_the_first();
            let place = Arc::clone(&self.places).acquire_owned();
            // Whoever was busy may be idle by then.
            if let Ok(place) = timeout(LOOK_EVERY, place).await {
                return place.expect("it is never closed");
            }
        }
    }

    fn turn_out_the_first(&mut self) {
        let may_go = |(task, busy): &(AbortHandle, Busy)| {
            task.is_finished() || !busy.load(Ordering::Acquire)
        };
        while let Some(first) = self.here.iter().position(may_go)
            && let Some((task, _)) = self.here.remove(first)
        {
            if !task.is_finished() {
                task.abort();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn i4_the_first_gives_way_and_nobody_is_kept_out() {
        let mut visitors = Visitors::new(3);
        let (gone, mut told) = mpsc::unbounded_channel();
        for number in 0..10 {
            // Told when it is dropped, however that comes.
            let told = Told(number, gone.clone());
            visitors
                .admit(async move {
                    let _told = told;
                    pending::<()>().await;
                })
                .await;
        }
        for number in 0..7 {
            assert_eq!(told.recv().await, Some(number));
        }
        assert!(told.try_recv().is_err(), "three stay");
    }

    #[tokio::test]
    async fn whoever_is_at_work_is_not_turned_out() {
        let mut visitors = Visitors::new(2);
        let (gone, mut told) = mpsc::unbounded_channel();
        for number in 0..4 {
            let told = Told(number, gone.clone());
            let busy = Busy::new(AtomicBool::new(number == 0));
            let serve = async move {
                let _told = told;
                pending::<()>().await;
            };
            visitors.admit_busy(busy, serve).await;
        }
        assert_eq!(told.recv().await, Some(1));
        assert_eq!(told.recv().await, Some(2));
        assert!(told.try_recv().is_err(), "the busy one and the last stay");
        // One that is no longer busy makes place for those who have waited.
        let places = [true, false].map(|busy| Busy::new(AtomicBool::new(busy)));
        let mut full = Visitors::new(1);
        full.admit_busy(Arc::clone(&places[0]), pending()).await;
        let waits = full.admit_busy(Arc::clone(&places[1]), pending());
        let frees = async { places[0].store(false, Ordering::Release) };
        tokio::join!(waits, frees);
    }

    #[tokio::test]
    async fn i4_those_who_are_done_are_forgotten() {
        let mut visitors = Visitors::new(3);
        for _ in 0..1000 {
            visitors.admit(async {}).await;
            tokio::task::yield_now().await;
        }
        assert!(visitors.here.len() <= DONE_MAX + 7);
    }

    struct Told(u32, mpsc::UnboundedSender<u32>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.1.send(self.0);
        }
    }
}
