//! The trait that a plugin implements.
//!
//! Owns what an author writes against and the two ways of saying no. Called by `batch` and `guest`.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Output, Record};

/// A formatter: a function of record and config, put on its impl with `#[formatter]`.
///
/// It may keep what it likes in `self`, but several run side by side and each may be replaced between
/// any two records: state is a cache, never the truth.
pub trait Formatter: Sized + 'static {
    /// What `config:` in YAML becomes. Its JSON Schema is what `wirefall check` checks against; put
    /// `#[serde(deny_unknown_fields)]` on it. [`NoConfig`] where there is none.
    type Config: DeserializeOwned + JsonSchema;

    /// One line for `wirefall inspect`; empty means the crate's `description`.
    const ABOUT: &'static str = "";

    /// What [`format`](Self::format) reads beside the payload.
    const COLUMNS: Columns = Columns::NONE;

    /// Makes the formatter, before the first record.
    ///
    /// # Errors
    /// What the schema cannot say about the config; shown to the operator, and nothing starts.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// Formats one record. Emitting nothing filters it.
    ///
    /// # Errors
    /// The record cannot be formatted: what was emitted for it is withdrawn, and `on_error` in YAML
    /// says what becomes of it.
    fn format(&mut self, record: &Record, out: &mut Output) -> Result<(), Reject>;
}

/// The optional columns of a batch; only what a formatter declares is carried across to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub(crate) keys: bool,
    pub(crate) timestamps: bool,
    pub(crate) attributes: bool,
}

impl Columns {
    /// Payloads only.
    pub const NONE: Self = Self {
        keys: false,
        timestamps: false,
        attributes: false,
    };
    /// [`Record::key`] is read.
    pub const KEYS: Self = Self {
        keys: true,
        ..Self::NONE
    };
    /// [`Record::timestamp`] is read.
    pub const TIMESTAMPS: Self = Self {
        timestamps: true,
        ..Self::NONE
    };
    /// [`Record::attributes`] is read.
    pub const ATTRIBUTES: Self = Self {
        attributes: true,
        ..Self::NONE
    };

    /// Both: `Columns::KEYS.and(Columns::TIMESTAMPS)`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys || other.keys,
            timestamps: self.timestamps || other.timestamps,
            attributes: self.attributes || other.attributes,
        }
    }
}

/// The config of a formatter that has none.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NoConfig {}

/// Why a record cannot be formatted. Any error becomes one with `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject(String);

impl Reject {
    /// Rejects with a reason, which stands in the failover beside the record.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// Not itself an `Error`, which is what lets every error become one.
impl<E: std::error::Error> From<E> for Reject {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// Why a config cannot be used. Any error becomes one with `?`.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// Refuses the config, with what is wrong and what to write instead.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// So that `fn main() -> Result<(), ConfigError>` and `unwrap` show the words as they are.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for ConfigError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
