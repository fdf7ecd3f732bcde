//! The parts of a pipeline file that are no driver's: `service`, `journal`, the `wasm` processor.
//!
//! Owns what their keys are called, their defaults and what they may be; the docs are made of the
//! comments here. What the schema cannot say is checked in `check`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plugin::{Limits, OnError};
use crate::units::{AsWritten, ByteSize, Percent, Span};

/// What concerns the whole pipeline.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// Name of the pipeline, of its stream and of its state: text or a number.
    pub(super) pipeline_id: AsWritten,
    /// Most records in a batch, 10 at least.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 10, max = 65536))]
    pub(super) batch_size: u32,
    /// Most payload bytes in a batch; a single longer record is a batch of its own.
    #[serde(default = "batch_bytes")]
    pub(super) batch_bytes: ByteSize,
    /// A partial batch goes on after this.
    #[serde(default = "batch_wait")]
    pub(super) batch_wait: Span,
    /// How many workers run the processors.
    #[serde(default)]
    pub(super) scaling: Scaling,
    /// Longest drain after the first signal; then the run ends with the rest unconfirmed.
    #[serde(default = "shutdown_timeout")]
    pub(super) shutdown_timeout: Span,
    /// Folder for what sources remember between runs, relative to the pipeline file; each pipeline has
    /// its own inside it.
    #[serde(default = "state")]
    pub(super) state: String,
    /// Address and port on this machine, as 127.0.0.1:9464, of `/metrics`, `/healthz` and `/readyz`; see
    /// docs/operations.md.
    pub(super) metrics: Option<String>,
}

/// Keys of Blink's `service` that mean nothing here.
pub(super) const SERVICE_IGNORED: &[&str] = &[
    "id",
    "name",
    "reload_on_restart",
    "enable_influx",
    "influx",
    "enable_etcd_registry",
    "etcd",
    "offset_storage_uri",
];

/// Keys at the top of a Blink file that mean nothing here.
pub(super) const TOP_IGNORED: &[&str] = &["secrets"];

fn batch_size() -> u32 {
    512
}

fn batch_bytes() -> ByteSize {
    ByteSize(1 << 20)
}

fn batch_wait() -> Span {
    Span(std::time::Duration::from_millis(5))
}

fn shutdown_timeout() -> Span {
    Span(std::time::Duration::from_secs(30))
}

fn state() -> String {
    ".wirefall".to_owned()
}

/// Between how many workers the processors run, by how full the queue before them is.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Scaling {
    /// Fewest workers.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub(super) min: u16,
    /// Most workers; `min` if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub(super) max: Option<u16>,
    /// One worker more when the queue is fuller than this.
    #[serde(default = "up_above")]
    pub(super) up_above: Percent,
    /// One worker less when it is emptier than this.
    #[serde(default = "down_below")]
    pub(super) down_below: Percent,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            min: one(),
            max: None,
            up_above: up_above(),
            down_below: down_below(),
        }
    }
}

fn one() -> u16 {
    1
}

fn up_above() -> Percent {
    Percent(0.6)
}

fn down_below() -> Percent {
    Percent(0.1)
}

/// The log of formatted frames between processors and sink.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    /// Where it is kept.
    #[serde(default)]
    pub(super) driver: JournalDriver,
    /// `memory`: most bytes kept; full means back-pressure while the sink's cursor holds them.
    #[serde(default = "journal_bytes")]
    pub(super) bytes: ByteSize,
    /// `memory`: oldest record kept for readers that lag, looked at with each append; bounded by bytes
    /// alone if unset.
    #[serde(default)]
    pub(super) age: Option<Span>,
    /// `disk`: its folder, relative to the pipeline file; `journal` in the pipeline's state if unset. One
    /// process at a time has it.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// `disk`: what is kept.
    #[serde(default)]
    pub(super) retention: Retention,
    /// `disk`: when what is appended is synced; readers and sources see it only then.
    #[serde(default)]
    pub(super) sync: SyncName,
    /// `disk`: how often, with `sync: interval`.
    #[serde(default = "interval")]
    pub(super) interval: Span,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            driver: JournalDriver::Memory,
            bytes: journal_bytes(),
            age: None,
            path: None,
            retention: Retention::default(),
            sync: SyncName::Batch,
            interval: interval(),
        }
    }
}

/// Journals that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum JournalDriver {
    /// In memory: a crash loses what it retained.
    #[default]
    Memory,
    /// In a folder: what it has outlives a crash.
    Disk,
}

/// Keys of `journal` that belong to one driver alone.
pub(super) const JOURNAL_KEYS: &[(JournalDriver, &str, &[&str])] = &[
    (JournalDriver::Memory, "memory", &["bytes", "age"]),
    (
        JournalDriver::Disk,
        "disk",
        &["path", "retention", "sync", "interval"],
    ),
];

/// What a journal on disk keeps.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retention {
    /// Most bytes; full means back-pressure while a cursor holds them.
    #[serde(default = "disk_bytes")]
    pub(super) bytes: ByteSize,
    /// Oldest record kept for readers that come late; bounded by bytes alone if unset. What is older goes
    /// by the segment, an eighth of all bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) age: Option<Span>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            bytes: disk_bytes(),
            age: None,
        }
    }
}

/// When a journal on disk is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SyncName {
    /// With every append; what comes while one sync runs shares the next.
    #[default]
    Batch,
    /// Every `interval`: fewer syncs, and everything takes as much longer.
    Interval,
    /// When a segment is full, and at the end: a crash of the machine may lose what was seen.
    None,
}

/// Room for a busy client session while the whole process stays under 40 MB.
fn journal_bytes() -> ByteSize {
    ByteSize(8 << 20)
}

fn disk_bytes() -> ByteSize {
    ByteSize(1 << 30)
}

fn interval() -> Span {
    Span(std::time::Duration::from_millis(50))
}

/// A formatter or filter compiled to a WebAssembly component.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wasm {
    /// A crate folder, which is built first, or a `.wasm` file; relative to the pipeline file.
    #[schemars(length(min = 1))]
    pub(super) plugin: String,
    /// The plugin's own config, checked against the plugin's own schema.
    #[serde(default = "no_config")]
    #[allow(
        dead_code,
        reason = "read as JSON, also where the rest of the processor is wrong"
    )]
    pub(super) config: Value,
    /// What becomes of a record that the plugin rejects or fails on; `failover` where the pipeline
    /// has one, `drop` where whoever sent it is told (source `http`), `stop` otherwise.
    #[serde(default)]
    pub(super) on_error: Option<OnErrorName>,
    /// Bounds on what one instance may use.
    #[serde(default)]
    pub(super) limits: WasmLimits,
    /// How many failures end the run; any number is survived if unset.
    #[serde(default)]
    pub(super) tolerance: Option<WasmTolerance>,
}

fn no_config() -> Value {
    Value::Object(Map::new())
}

/// See [`OnError`].
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnErrorName {
    /// It goes to the failover.
    Failover,
    /// It is dropped and counted.
    Drop,
    /// It goes on as it was before this plugin.
    Pass,
    /// It ends the run.
    Stop,
}

impl From<OnErrorName> for OnError {
    fn from(name: OnErrorName) -> Self {
        match name {
            OnErrorName::Failover => Self::Failover,
            OnErrorName::Drop => Self::Drop,
            OnErrorName::Pass => Self::Pass,
            OnErrorName::Stop => Self::Stop,
        }
    }
}

/// Bounds on what one instance of a plugin may use.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WasmLimits {
    /// Most linear memory.
    pub(super) memory: ByteSize,
    /// Longest call: CPU time of the worker, and ten times that by the clock.
    pub(super) time: Span,
    /// Most log lines a call that reach the log.
    pub(super) log_lines: u32,
    /// Most bytes that one call may return.
    pub(super) output: ByteSize,
}

impl Default for WasmLimits {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            memory: ByteSize(limits.memory_bytes),
            time: Span(limits.time),
            log_lines: limits.log_lines,
            output: ByteSize(limits.output_bytes),
        }
    }
}

impl From<WasmLimits> for Limits {
    fn from(written: WasmLimits) -> Self {
        Self {
            memory_bytes: written.memory.0,
            time: written.time.0,
            log_lines: written.log_lines,
            output_bytes: written.output.0,
        }
    }
}

/// More than `failures` among the last `window` records end the run as failed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WasmTolerance {
    /// Most failures in the window.
    pub(super) failures: u32,
    /// How many of the latest records are looked at.
    #[schemars(range(min = 1))]
    pub(super) window: u32,
}
