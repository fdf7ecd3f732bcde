//! A plugin that is loaded, and its running instances.
//!
//! Owns every guest call: its deadline, its memory, what it panicked with, and turning whatever went
//! wrong into a [`Fault`]. An instance that faulted is never called again.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Store, Trap, UpdateDeadline};

use super::abi::v0_1::{self, Batch, Checked, Exports, ExportsPre};
use super::artifact::Artifact;
use super::limits::{Deadline, Memory};
use super::log::{Log, printable};
use super::state::State;
use super::{Host, Limits, PluginError};

/// Bytes that an answer may take beside its payloads and keys: ends, sources, reasons.
const ANSWER_SLACK_BYTES: u64 = 16 << 20;

/// A guest call that failed; it has emitted nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// What happened, in a sentence.
    pub(super) reason: String,
}

/// What a fault tells of the record that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// A panic at a record that is known.
    At(u32),
    /// The time limit passed.
    Time,
    /// The memory limit passed: perhaps by what earlier calls left behind.
    Memory,
    /// Anything else.
    Other,
}

/// The epoch callback's error.
#[derive(Debug, thiserror::Error)]
#[error("the time limit passed")]
struct TimedOut;

/// A compiled plugin with its bounds, from which instances are made.
pub(super) struct Loaded {
    host: Host,
    exports: ExportsPre<State>,
    limits: Limits,
    name: Arc<str>,
}

impl Loaded {
    /// Compiles `artifact`, or takes it from the cache, and links it.
    pub(super) fn new(
        host: &Host,
        artifact: &Artifact,
        limits: &Limits,
    ) -> Result<Self, PluginError> {
        let component = artifact.compile(host)?;
        let refused = |error: wasmtime::Error| {
            PluginError::wrong(
                &artifact.label,
                format!("does not fit this host: {error:#}"),
            )
        };
        let linked = host.linker().instantiate_pre(&component).map_err(refused)?;
        host.tick_for(limits.time);
        Ok(Self {
            host: host.clone(),
            exports: ExportsPre::new(linked).map_err(refused)?,
            limits: limits.clone(),
            name: artifact.label.as_str().into(),
        })
    }

    /// Names the plugin in its log lines.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Makes an instance: nothing of the guest has run before.
    pub(super) fn start(&self) -> Result<Instance, Fault> {
        let state = State {
            memory: Memory::new(self.limits.memory_bytes),
            deadline: Deadline::start(self.limits.time),
            log: Log::new(Arc::clone(&self.name), self.limits.log_lines),
            panicked: None,
        };
        let mut store = Store::new(self.host.engine(), state);
        store.limiter(|state| &mut state.memory);
        let fuel = self.limits.output_bytes.saturating_add(ANSWER_SLACK_BYTES);
        store.set_hostcall_fuel(usize::try_from(fuel).unwrap_or(usize::MAX));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            if store.data().deadline.passed() {
                return Err(TimedOut.into());
            }
            Ok(UpdateDeadline::Continue(1))
        });
        match self.exports.instantiate(&mut store) {
            Ok(exports) => {
                store.data_mut().log.call_ended();
                Ok(Instance {
                    store,
                    exports,
                    limits: self.limits.clone(),
                    calls: 0,
                })
            }
            Err(error) => Err(fault(&mut store, &self.limits, &error, u32::MAX)),
        }
    }

    /// Makes an instance and gives it its config.
    pub(super) fn start_configured(&self, config: &str) -> Result<Instance, Fault> {
        let mut instance = self.start()?;
        instance.configure(config)?;
        Ok(instance)
    }
}

/// A running plugin.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    limits: Limits,
    calls: u64,
}

impl Instance {
    /// Whether it has formatted nothing yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.calls == 0
    }

    /// What the plugin says of itself.
    pub(super) fn describe(&mut self) -> Result<v0_1::Description, Fault> {
        self.begin();
        let guest = self.exports.wirefall_plugin_formatter();
        let described = guest.call_describe(&mut self.store);
        self.end(described, u32::MAX)
    }

    /// Gives it its config, before anything else.
    pub(super) fn configure(&mut self, config: &str) -> Result<(), Fault> {
        self.begin();
        let guest = self.exports.wirefall_plugin_formatter();
        let configured = guest.call_configure(&mut self.store, config);
        self.end(configured, u32::MAX)?.map_err(|message| Fault {
            kind: FaultKind::Other,
            reason: printable(&message, v0_1::REASON_BYTES_MAX),
        })
    }

    /// Formats a batch; what comes back adds up.
    pub(super) fn format(&mut self, batch: Batch<'_>) -> Result<Checked, Fault> {
        let records = batch.payload_ends.len();
        self.begin();
        self.calls += 1;
        let guest = self.exports.wirefall_plugin_formatter();
        let outputs = guest.call_format(&mut self.store, batch);
        let outputs = self.end(outputs, records as u32)?;
        v0_1::check(outputs, records, &self.limits).map_err(|message| Fault {
            kind: FaultKind::Other,
            reason: format!("the plugin's answer does not add up: it {message}"),
        })
    }

    fn begin(&mut self) {
        let state = self.store.data_mut();
        state.deadline = Deadline::start(self.limits.time);
        state.panicked = None;
    }

    fn end<T>(&mut self, called: wasmtime::Result<T>, records: u32) -> Result<T, Fault> {
        self.store.data_mut().log.call_ended();
        called.map_err(|error| fault(&mut self.store, &self.limits, &error, records))
    }
}

/// What went wrong in a call for `records` records, in the words of whoever knows best.
fn fault(
    store: &mut Store<State>,
    limits: &Limits,
    error: &wasmtime::Error,
    records: u32,
) -> Fault {
    let state = store.data_mut();
    if let Some((at, message)) = state.panicked.take() {
        let kind = match at {
            Some(at) if at < records => FaultKind::At(at),
            _ => FaultKind::Other,
        };
        let message = printable(&message, v0_1::REASON_BYTES_MAX);
        return Fault {
            kind,
            reason: format!("the plugin panicked: {message}"),
        };
    }
    if error.is::<TimedOut>() {
        return Fault {
            kind: FaultKind::Time,
            reason: format!(
                "the plugin took longer than {} (limits.time)",
                span(limits.time)
            ),
        };
    }
    if state.memory.denied {
        return Fault {
            kind: FaultKind::Memory,
            reason: format!(
                "the plugin needs more memory than {} (limits.memory)",
                crate::units::ByteSize(limits.memory_bytes)
            ),
        };
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(trap) => format!("the plugin trapped: {trap}"),
        // wasmtime keeps the type of this error to itself; a test holds its words.
        None if error
            .root_cause()
            .to_string()
            .contains("fuel allocated for hostcalls") =>
        {
            format!(
                "the plugin returned more than {} (limits.output)",
                crate::units::ByteSize(limits.output_bytes)
            )
        }
        None => format!("the call of the plugin failed: {}", error.root_cause()),
    };
    Fault {
        kind: FaultKind::Other,
        reason: printable(&reason, v0_1::REASON_BYTES_MAX),
    }
}

fn span(time: Duration) -> crate::units::Span {
    crate::units::Span(time)
}
