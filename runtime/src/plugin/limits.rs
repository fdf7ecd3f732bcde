//! Bounds on what one instance may use, while it uses it (I4, I5).
//!
//! Owns the counting; `instance` asks what was passed and says so in its faults.

use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

/// A call whose thread the machine did not let run gets more wall time, but never more than this many
/// times its limit: a busy machine must not turn good records into failures.
const WALL_FACTOR_MAX: u32 = 10;

/// Most elements of all tables of an instance.
const TABLE_ELEMENTS_MAX: usize = 1 << 17;

/// Counts the linear memory of all modules in an instance.
#[derive(Debug)]
pub(super) struct Memory {
    bytes_max: usize,
    bytes: usize,
    /// Whether the instance asked for more than it may have.
    pub(super) denied: bool,
}

impl Memory {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            bytes: 0,
            denied: false,
        }
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        if bytes > self.bytes_max {
            self.denied = true;
            return Ok(false);
        }
        self.bytes = bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

/// The time of one guest call. Looked at each time the epoch ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    limit: Duration,
    started: Instant,
    cpu_started: Duration,
}

impl Deadline {
    /// A call of at most `limit` begins.
    pub(super) fn start(limit: Duration) -> Self {
        Self {
            limit,
            started: Instant::now(),
            cpu_started: thread_cpu_time(),
        }
    }

    /// Whether the call must end now.
    pub(super) fn passed(&self) -> bool {
        let wall = self.started.elapsed();
        wall >= self.limit
            && (thread_cpu_time().saturating_sub(self.cpu_started) >= self.limit
                || wall >= self.limit.saturating_mul(WALL_FACTOR_MAX))
    }
}

/// How long this thread has run on a CPU; a guest never waits, so that is what it used.
fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that the call writes; the clock exists on every Unix.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if failed != 0 {
        // Then only the wall clock counts.
        return Duration::ZERO;
    }
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
