//! What the host keeps beside an instance, for the guest's own calls back.
//!
//! Owns nothing but the fields: `instance` sets them, `abi` and `wasi` answer the guest from them.

use super::limits::{Deadline, Memory};
use super::log::Log;

/// What the host keeps for an instance.
pub(super) struct State {
    pub(super) memory: Memory,
    pub(super) deadline: Deadline,
    pub(super) log: Log,
    /// The record it was at and the message, told by the panic hook.
    pub(super) panicked: Option<(Option<u32>, String)>,
}
