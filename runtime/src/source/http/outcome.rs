//! Outcomes: what whoever posts is told.
//!
//! Owns the answer's form, and how much of it is remembered with a key. Called by `desk`, which says it, and
//! by `keys`, which says it again.

use serde::{Deserialize, Serialize};

/// Most bytes of reasons that are remembered of a post that has a key (I4).
const REMEMBERED_BYTES_MAX: usize = 1024;

/// What became of a post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    /// Its records.
    pub(super) records: u64,
    /// Those that came through the formatters; `None` where only a run before this one knew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accepted: Option<u64>,
    /// Those that did not: they are in the failover, or dropped as the pipeline says. `None` where it is
    /// not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rejected: Option<Vec<Rejected>>,
    /// It was taken before, and not again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) replayed: bool,
}

/// A record that did not come through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rejected {
    /// Which of the post.
    pub(super) index: u64,
    /// Why.
    pub(super) reason: String,
}

impl Outcome {
    /// As it is told to those who post the same again.
    pub(super) fn remembered(&self) -> Self {
        let bytes = |one: &Rejected| one.reason.len() + size_of::<Rejected>();
        let is_short = |rejected: &&Vec<Rejected>| {
            rejected.iter().map(bytes).sum::<usize>() <= REMEMBERED_BYTES_MAX
        };
        Self {
            rejected: self.rejected.as_ref().filter(is_short).cloned(),
            replayed: true,
            ..*self
        }
    }

    /// Of a post that a run before this one took.
    pub(super) fn recalled(records: u64) -> Self {
        Self {
            records,
            accepted: None,
            rejected: None,
            replayed: true,
        }
    }
}
