//! What a plugin says of itself, asked once a digest and kept.

use std::path::Path;

use serde_json::Value;

use super::{Cache, Description, PluginError};

/// Asks the component at `path` what it is, or the cache if it was asked before.
///
/// # Errors
/// A file that is no plugin, or a plugin for another interface: which side must change.
pub fn describe(path: &Path, _cache: &Cache) -> Result<Description, PluginError> {
    Err(PluginError::wrong(path.display(), "not built yet"))
}

/// Lets the component at `path` read `config` as it would at the start of a run.
///
/// # Errors
/// The plugin's own words, where it refuses the config.
pub fn try_config(path: &Path, _config: &Value, _cache: &Cache) -> Result<(), PluginError> {
    Err(PluginError::wrong(path.display(), "not built yet"))
}
