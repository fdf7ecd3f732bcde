//! Connections that have not become subscribers yet, and who of them gives way.
//!
//! Owns their bound. A request takes milliseconds; whoever is still here when there is no place left has
//! been silent, on purpose or not, and the one that came first gives way to the one that comes. So
//! connections that say nothing keep nobody out. Called by the accept loop.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// So many that are done may be looked through in vain, beside as many as are served.
const DONE_MAX: usize = 64;

/// See the module.
pub struct Visitors {
    places: Arc<Semaphore>,
    places_max: usize,
    /// Oldest first; those that are done are taken out from time to time.
    here: VecDeque<AbortHandle>,
}

impl Visitors {
    /// At most so many at a time (I4).
    pub fn new(places_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            here: VecDeque::new(),
        }
    }

    /// Serves one more, in a task of its own.
    pub async fn admit(&mut self, serve: impl Future<Output = ()> + Send + 'static) {
        let places = Arc::clone(&self.places);
        let place = match places.try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.turn_out_the_first();
                let places = Arc::clone(&self.places);
                places.acquire_owned().await.expect("it is never closed")
            }
        };
        let task = tokio::spawn(async move {
            serve.await;
            drop(place);
        });
        self.here.push_back(task.abort_handle());
        // A handle keeps the memory of its task, so those that are done are not left to gather.
        let serving = self.places_max - self.places.available_permits();
        if self.here.len() > 2 * serving + DONE_MAX {
            self.here.retain(|task| !task.is_finished());
        }
    }

    fn turn_out_the_first(&mut self) {
        while let Some(first) = self.here.pop_front() {
            if !first.is_finished() {
                first.abort();
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
