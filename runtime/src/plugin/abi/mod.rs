//! The plugin interfaces that this host speaks; a file a version.

pub(super) mod v0_1;

/// The interface that a plugin exports, without version.
pub(super) const FORMATTER: &str = "wirefall:plugin/formatter";

/// What the ABI itself offers to plugins, without version.
pub(super) const LOG: &str = "wirefall:plugin/log";

/// The version spoken; `0.1.x` are one interface.
pub(super) const VERSION: (u64, u64) = (0, 1);
