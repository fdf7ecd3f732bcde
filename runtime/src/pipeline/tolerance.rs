//! Tolerance: when too many of the latest records failed, the run ends in a clear `failed` state.
//!
//! Owns one window a processor. Pure. The idea is Conduit's dead-letter window.

use std::collections::VecDeque;

use crate::plugin::Tolerance;

/// The failures among the latest records of one processor.
#[derive(Debug)]
pub(super) struct Window {
    tolerance: Tolerance,
    /// Numbers of the records that failed, oldest first; all inside the window.
    failures: VecDeque<u64>,
    records: u64,
}

impl Window {
    pub(super) fn new(tolerance: Tolerance) -> Self {
        Self {
            tolerance,
            failures: VecDeque::new(),
            records: 0,
        }
    }

    /// Takes a batch of `records` records with the indices of those that failed, ascending. Tells the
    /// first of them at which there were more failures than tolerated.
    pub(super) fn exceeded(
        &mut self,
        records: u64,
        failed: impl Iterator<Item = u32>,
    ) -> Option<u32> {
        let mut exceeded = None;
        for index in failed {
            let number = self.records + u64::from(index);
            let oldest = (number + 1).saturating_sub(u64::from(self.tolerance.window));
            self.failures.push_back(number);
            while self
                .failures
                .front()
                .is_some_and(|failure| *failure < oldest)
            {
                self.failures.pop_front();
            }
            if self.failures.len() > self.tolerance.failures_max as usize {
                exceeded.get_or_insert(index);
            }
        }
        self.records += records;
        exceeded
    }

    pub(super) fn tolerance(&self) -> Tolerance {
        self.tolerance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(failures_max: u32, window: u32) -> Window {
        Window::new(Tolerance {
            failures_max,
            window,
        })
    }

    #[test]
    fn counts_across_batches_and_forgets_what_left_the_window() {
        let mut strict = window(2, 10);
        assert_eq!(strict.exceeded(5, [0, 4].into_iter()), None);
        assert_eq!(
            strict.exceeded(6, [5].into_iter()),
            None,
            "record 0 left the window at record 10"
        );
        assert_eq!(
            strict.exceeded(3, [0, 2].into_iter()),
            Some(0),
            "4, 10 and 11 are within ten records"
        );
    }

    #[test]
    fn none_tolerated_means_the_first_one_ends_it() {
        assert_eq!(window(0, 1).exceeded(100, [50, 60].into_iter()), Some(50));
    }
}
