//! The harness of the end-to-end tests: the real binary, real peers, real faults.
//!
//! Owns processes (ended by their id when dropped), temporary folders, a TCP proxy that breaks
//! connections on request, and the wait for a state with a deadline. Knows nothing of how Wirefall
//! works inside: what a test sees is what a user sees.
//!
//! A test that needs a peer asks [`peers`] for it. Where it is missing the test tells so and passes,
//! unless `CI` is set: then it fails.

pub mod documents;
mod frames;
pub mod hostile;
pub mod peers;
pub mod pipelines;
pub mod process;
pub mod proxy;
pub mod pushing;
pub mod raw;
pub mod records;
pub mod tiny;
pub mod workspace;

pub use process::{Process, Signal, wirefall};
pub use proxy::{Fault, Proxy};
pub use records::{numbers, write_numbered};
pub use workspace::Folder;

use std::time::{Duration, Instant};

/// Longest wait for a state. Far longer than anything takes: only a broken program meets it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The same for what compiles crates.
pub const BUILD_PATIENCE: Duration = Duration::from_secs(600);

/// How often a state is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// Waits until `state` gives something, and fails the test with `what` if it does not in time.
pub fn wait_for<T>(what: &str, state: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, state)
}

/// The same with another patience.
fn wait_within<T>(patience: Duration, what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(GLANCE);
    }
}

/// Waits until `state` holds.
pub fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    wait_for(what, || state().then_some(()));
}
