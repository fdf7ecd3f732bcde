//! Counters of a run and the account that is printed at its end (I2).
//!
//! Owns the numbers; the pipeline counts inputs, sinks count what they send. A handle is passed, there
//! is no global registry.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a sink counts while it runs. Shared, monotonic.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Records handed to a peer, resends included.
    pub records_sent: Counter,
    /// Payload bytes handed to a peer.
    pub bytes_sent: Counter,
    /// Records that were sent more than once.
    pub records_resent: Counter,
    /// Connections after the first.
    pub reconnects: Counter,
    /// Subscribers now connected (server mode).
    pub subscribers: Counter,
    /// Subscribers that were disconnected because the journal went on without them.
    pub behind_disconnected: Counter,
    /// Times that a subscriber skipped to the oldest record kept.
    pub behind_skipped: Counter,
    /// Records that subscribers lost in either way, each once for everyone who lost it.
    pub records_lost: Counter,
    /// Times that a name held the journal for longer than `on_lag.deadline`.
    pub holds_expired: Counter,
    /// Sessions that ended because another took their name.
    pub names_taken: Counter,
    /// Subscribers whose control messages were wrong, or did not come.
    pub wrong_requests: Counter,
}

/// An atomic number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts `n`, for gauges.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
