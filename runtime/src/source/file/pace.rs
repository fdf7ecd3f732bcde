//! The pace of a file: so many records a second (`rate`).

use std::time::{Duration, Instant};

/// Releases records at a rate. What a slow peer held back is not made up for.
pub struct Pace {
    rate: f64,
    since: Instant,
    released: u64,
}

/// Slower and faster than any file is read; between them no sum below overflows.
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 1e9;

impl Pace {
    /// Longest time that is caught up with at once.
    const CATCH_UP: Duration = Duration::from_millis(200);

    /// So many records a second from now on.
    pub fn new(rate: f64) -> Self {
        Self {
            rate: rate.clamp(RATE_MIN, RATE_MAX),
            since: Instant::now(),
            released: 0,
        }
    }

    /// Waits until at least one record is due and tells how many are.
    pub async fn wait(&mut self) -> usize {
        loop {
            let due = ((self.since.elapsed().as_secs_f64() * self.rate) as u64).saturating_add(1);
            let allowed = due.saturating_sub(self.released);
            if allowed as f64 > self.rate * Self::CATCH_UP.as_secs_f64() + 1.0 {
                self.since = Instant::now();
                self.released = 0;
                continue;
            }
            if allowed > 0 {
                return usize::try_from(allowed).unwrap_or(usize::MAX);
            }
            let at = self.since + Duration::from_secs_f64(self.released as f64 / self.rate);
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// So many were given out.
    pub fn release(&mut self, records: usize) {
        self.released += records as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_rate_overflows() {
        for rate in [1e300, f64::MAX, f64::INFINITY, 1e-300] {
            let first = Pace::new(rate).wait().await;
            assert!((1..1_000_000_000).contains(&first), "{rate}: {first}");
        }
    }
}
