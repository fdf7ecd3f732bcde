//! Counters of a run and the account that is printed at its end (I2).
//!
//! Owns the numbers; the pipeline counts inputs, sinks count what they send. A handle is passed, there
//! is no global registry.

use std::sync::atomic::{AtomicU64, Ordering};

pub mod exposition;

/// What a run counts. Shared, monotonic but for the gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    /// What the loop tells of the run.
    pub flow: Flow,
    /// Posts to the source `http`.
    pub posts: Posts,
    /// Keys of posts that were forgotten although the journal kept their records.
    pub keys_forgotten: Counter,
    /// Records handed to a peer, resends included.
    pub records_sent: Counter,
    /// Payload bytes handed to a peer.
    pub bytes_sent: Counter,
    /// Records that were sent more than once.
    pub records_resent: Counter,
    /// Connections after the first.
    pub reconnects: Counter,
    /// 1 while a run that pushes has no connection to its server.
    pub disconnected: Counter,
    /// Subscribers now connected (server mode).
    pub subscribers: Counter,
    /// Subscribers that were disconnected because the journal went on without them.
    pub behind_disconnected: Counter,
    /// Times that a subscriber skipped to the oldest record kept.
    pub behind_skipped: Counter,
    /// Records that subscribers lost in either way, each once for everyone who lost it.
    pub records_lost: Counter,
    /// Times that a subscriber was told at its start that records are missing.
    pub late: Counter,
    /// The missing records, as far as it is known how many: what a subscriber fell behind and was
    /// disconnected for is among them where it comes back, and in `records_lost`.
    pub records_missed: Counter,
    /// Times that a name held the journal for longer than `on_lag.deadline`.
    pub holds_expired: Counter,
    /// Sessions that ended because another took their name.
    pub names_taken: Counter,
    /// Sessions that ended because of their credential.
    pub sessions_ended: SessionsEnded,
    /// Requests that were told to come again later.
    pub too_many: TooMany,
    /// Subscribers that broke the WebSocket protocol, or whose control messages were wrong or did not come.
    pub breaches: Counter,
}

/// Sessions that were ended for those who had them, by what was over.
#[derive(Debug, Default)]
pub struct SessionsEnded {
    /// The credential is past its end.
    pub expired: Counter,
    /// The secret has a newer one, and its grace is over.
    pub replaced: Counter,
    /// The credential is gone.
    pub revoked: Counter,
    /// The credential sent more bytes a second than it may.
    pub bytes: Counter,
}

/// Requests and upgrades that were refused for a while, by what there was too much of.
#[derive(Debug, Default)]
pub struct TooMany {
    /// Failures of the address to show a good credential.
    pub failures: Counter,
    /// Sessions of the credential.
    pub sessions: Counter,
    /// Bytes a second of the credential.
    pub bytes: Counter,
    /// Tickets of the credential.
    pub tickets: Counter,
    /// Subscribers.
    pub subscribers: Counter,
    /// Posts that wait for their answer.
    pub requests: Counter,
    /// Bytes of such posts.
    pub in_flight: Counter,
}

/// Posts that were answered, by the status of the answer.
#[derive(Debug, Default)]
pub struct Posts([Counter; POST_STATUSES.len()]);

/// What a post is answered with.
const POST_STATUSES: [u16; 12] = [200, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503];

impl Posts {
    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        let index = POST_STATUSES.iter().position(|one| *one == status);
        index.iter().for_each(|index| self.0[*index].add(1));
    }

    /// Every status with how often it was answered, if it ever was.
    pub fn counts(&self) -> impl Iterator<Item = (u16, u64)> {
        let counts = POST_STATUSES
            .into_iter()
            .zip(self.0.iter().map(Counter::get));
        counts.filter(|(_, count)| *count > 0)
    }
}

/// The account of a run as far as it has come (I2), and how busy it is. The loop sets it a few times a
/// second from what it counts itself.
#[derive(Debug, Default)]
pub struct Flow {
    /// Records that were in the journal from an earlier run, and that its sink had not settled.
    pub carried_in: Counter,
    /// Records that the source gave.
    pub read: Counter,
    /// Records that the peer confirmed.
    pub delivered: Counter,
    /// Records that were appended for subscribers.
    pub published: Counter,
    /// Records for which the plugins emitted nothing.
    pub filtered: Counter,
    /// Records that are safe in the failover.
    pub failed_over: Counter,
    /// Records that were dropped because the configuration says so.
    pub dropped: Counter,
    /// Of the delivered or published ones: those that a plugin failed on and `on_error: pass` let go.
    pub passed: Counter,
    /// Records that the source's server had no more when they were asked for: none of those read.
    pub source_missed: Counter,
    /// How often it could not tell whether there were such.
    pub source_gaps: Counter,
    /// 1 while the journal cannot be written.
    pub journal_waits: Counter,
    /// Batches that wait for a worker.
    pub queued_batches: Counter,
    /// Most batches that may wait.
    pub queue_batches_max: Counter,
    /// Workers that run.
    pub workers: Counter,
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

    /// Sets it to a value that is counted elsewhere.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
