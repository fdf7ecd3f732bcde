//! Plugins: WebAssembly components that format and filter records.
//!
//! Owns everything that names wasmtime: the engine and its epoch ticker, loading and the code cache,
//! limits, the ABI. Never reads YAML and never decides what a failed record costs: it reports
//! [`Failure`]s and the pipeline acts. Called by `config` (through resolved facts), by `pipeline`
//! (a [`Chain`] a worker), and by the author's verbs in `cli`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::record::Outputs;

pub use chain::{Chain, ChainPlan};
pub use crate_build::resolve;
pub use describe::{describe, try_config};
pub use engine::{Cache, Host};

mod abi;
mod artifact;
mod cache;
mod chain;
mod crate_build;
mod describe;
mod engine;
mod instance;
mod limits;
mod log;
mod stage;
mod state;
mod wasi;

/// Bounds on what one instance may use (I4, I5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most linear memory, in bytes.
    pub memory_bytes: u64,
    /// Longest guest call: CPU time of its thread, and at most ten times that by the clock.
    pub time: Duration,
    /// Most log lines a call that reach the host's log.
    pub log_lines: u32,
    /// Most bytes of outputs a call may return.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            time: Duration::from_secs(1),
            log_lines: 100,
            output_bytes: 64 << 20,
        }
    }
}

/// What becomes of a record that a plugin rejects or fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnError {
    /// It goes to the failover.
    Failover,
    /// It is dropped and counted.
    Drop,
    /// It goes on as it was before this plugin.
    Pass,
    /// It ends the run.
    Stop,
}

impl OnError {
    /// What becomes of it where the pipeline does not say, and of a record that cannot be framed. Where
    /// nobody keeps it, whoever sent it may be told: then it ends nothing, or one bad record of one
    /// sender would end the run for all of them.
    #[must_use]
    pub fn unless_said(has_failover: bool, sender_is_told: bool) -> Self {
        match (has_failover, sender_is_told) {
            (true, _) => Self::Failover,
            (false, true) => Self::Drop,
            (false, false) => Self::Stop,
        }
    }
}

/// More than `failures_max` failures among the last `window` records end the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// Most failures in the window.
    pub failures_max: u32,
    /// How many of the latest records are looked at.
    pub window: u32,
}

/// One processor of a pipeline, checked.
#[derive(Clone, Debug)]
pub struct ProcessorPlan {
    /// The component file (a crate folder was built to it before).
    pub artifact: PathBuf,
    /// Config for the plugin; fits its schema.
    pub config: Value,
    /// What a failure costs.
    pub on_error: OnError,
    /// Bounds.
    pub limits: Limits,
    /// How many failures end the run; `None`: any number is survived.
    pub tolerance: Option<Tolerance>,
}

/// Who a plugin is, in errors and in the failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginId {
    /// From `describe`.
    pub name: String,
    /// From `describe`.
    pub version: String,
    /// `sha256:…` of the component file.
    pub digest: String,
}

/// An input that failed somewhere in the chain; all its outputs were withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Index of the input in the batch.
    pub input: u32,
    /// Index of the processor in the chain.
    pub stage: usize,
    /// The plugin's reason, the panic's message and place, or the limit that was passed.
    pub reason: String,
    /// A rejection is the plugin's decision about a record; a fault is the plugin failing.
    pub fault: bool,
}

/// What a chain made of a batch.
#[derive(Clone, Debug, Default)]
pub struct Transformed {
    /// Outputs of all inputs that did not fail.
    pub outputs: Outputs,
    /// Failed inputs, ascending and unique. Those of `on_error: pass` are not among them.
    pub failures: Vec<Failure>,
    /// Inputs that a stage failed on and that went on unchanged (`on_error: pass`), stage by stage. An
    /// input may have failed at a later stage all the same.
    pub passed: Vec<Failure>,
}

/// The optional columns that a plugin reads; only these are carried across to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Columns {
    /// Keys.
    pub keys: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// Attributes.
    pub attributes: bool,
}

/// What a plugin says of itself: enough to check a pipeline without running records.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Who it is.
    pub id: PluginId,
    /// The plugin interface it was built for, as `wirefall:plugin/formatter@0.1.0`.
    pub abi: String,
    /// What it does, in a line.
    pub about: String,
    /// JSON Schema of its config.
    pub config_schema: Value,
    /// What it reads beside payloads.
    pub columns: Columns,
    /// What it imports, by name.
    pub imports: Vec<String>,
    /// Size of the component file.
    pub size_bytes: u64,
}

/// Whose fault a [`PluginError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginErrorKind {
    /// The component, its crate, or its config is wrong (exit code 2).
    Wrong,
    /// The machine is: no cargo, no rustup, an unreadable file (exit code 3).
    Environment,
}

/// Why a plugin cannot be used at all: known before the first record (I6).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin}: {message}")]
pub struct PluginError {
    /// Whose fault.
    pub kind: PluginErrorKind,
    /// Path or name.
    pub plugin: String,
    /// What is wrong, and which side must change.
    pub message: String,
}

impl PluginError {
    /// The component, its crate or its config is wrong.
    pub fn wrong(plugin: impl ToString, message: impl Into<String>) -> Self {
        Self {
            kind: PluginErrorKind::Wrong,
            plugin: plugin.to_string(),
            message: message.into(),
        }
    }

    /// The machine lacks something.
    pub fn environment(plugin: impl ToString, message: impl Into<String>) -> Self {
        Self {
            kind: PluginErrorKind::Environment,
            plugin: plugin.to_string(),
            message: message.into(),
        }
    }
}
