//! Plugin interface 0.1: batches in flat columns.
//!
//! Owns the bindings and the check of everything that comes back: a malformed answer is the plugin's
//! fault, never a panic of the host (I5).

use wasmtime::component::{HasSelf, Linker};

use super::super::log::Level;
use super::super::state::State;
use super::super::{Columns, Limits};
use crate::record::Column;

/// Generated from `sdk/wit/v0_1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../sdk/wit/v0_1",
        world: "plugin",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use bindings::exports::wirefall::plugin::formatter::Columns as WitColumns;
pub(in crate::plugin) use bindings::exports::wirefall::plugin::formatter::{
    Batch, Description, Outputs,
};
use bindings::wirefall::plugin::log as wit;
pub(in crate::plugin) use bindings::{Plugin as Exports, PluginPre as ExportsPre};

/// Longest reason that is kept of a rejection or a panic.
pub(in crate::plugin) const REASON_BYTES_MAX: usize = 1024;

/// Offers the ABI's own imports.
pub(in crate::plugin) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl wit::Host for State {
    fn write(&mut self, level: wit::Level, message: String) {
        let level = match level {
            wit::Level::Error => Level::Error,
            wit::Level::Warn => Level::Warn,
            wit::Level::Info => Level::Info,
            wit::Level::Debug => Level::Debug,
            wit::Level::Trace => Level::Trace,
        };
        self.log.line(level, &message);
    }

    fn panicked(&mut self, at: Option<u32>, message: String) {
        // The first counts: a panic while panicking says nothing new.
        self.panicked.get_or_insert((at, message));
    }
}

/// The columns that a plugin asked for.
pub(in crate::plugin) fn columns(description: &Description) -> Columns {
    Columns {
        keys: description.columns.contains(WitColumns::KEYS),
        timestamps: description.columns.contains(WitColumns::TIMESTAMPS),
        attributes: description.columns.contains(WitColumns::ATTRIBUTES),
    }
}

/// An answer whose columns add up.
#[derive(Debug, Default)]
pub(in crate::plugin) struct Checked {
    pub(in crate::plugin) payloads: Column,
    pub(in crate::plugin) sources: Vec<u32>,
    /// Empty, or one for each output.
    pub(in crate::plugin) keys: Column,
    /// Ascending, none of them in `sources`.
    pub(in crate::plugin) rejections: Vec<(u32, String)>,
}

/// Checks every column of an answer to a batch of `records` records.
///
/// # Errors
/// What does not add up, for the author of the plugin.
pub(in crate::plugin) fn check(
    outputs: Outputs,
    records: usize,
    limits: &Limits,
) -> Result<Checked, String> {
    let bytes = outputs.payloads.len() as u64 + outputs.keys.len() as u64;
    if bytes > limits.output_bytes {
        return Err(format!(
            "returned {bytes} bytes of outputs, limits.output allows {}",
            limits.output_bytes
        ));
    }
    if outputs.ends.len() != outputs.sources.len() {
        return Err(format!(
            "returned {} ends for {} sources",
            outputs.ends.len(),
            outputs.sources.len()
        ));
    }
    let payloads = column("ends", outputs.payloads, outputs.ends)?;
    let keys = column("key-ends", outputs.keys, outputs.key_ends)?;
    if !keys.is_empty() && keys.len() != payloads.len() {
        return Err(format!(
            "returned {} keys for {} outputs",
            keys.len(),
            payloads.len()
        ));
    }
    in_range("sources", &outputs.sources, records)?;
    if !outputs.sources.is_sorted() {
        return Err("returned sources that decrease".to_owned());
    }
    let rejections: Vec<(u32, String)> = outputs
        .rejections
        .into_iter()
        .map(|rejection| (rejection.index, rejection.reason))
        .collect();
    check_rejections(&rejections, &outputs.sources, records)?;
    Ok(Checked {
        payloads,
        sources: outputs.sources,
        keys,
        rejections,
    })
}

/// A column whose ends never decrease and meet its bytes.
fn column(name: &str, bytes: Vec<u8>, ends: Vec<u32>) -> Result<Column, String> {
    if !ends.is_sorted() {
        return Err(format!("returned {name} that decrease"));
    }
    let end = ends.last().map_or(0, |end| *end as usize);
    if end != bytes.len() {
        return Err(format!(
            "returned {name} up to {end} over {} bytes",
            bytes.len()
        ));
    }
    Ok(Column { bytes, ends })
}

fn in_range(name: &str, indices: &[u32], records: usize) -> Result<(), String> {
    match indices.iter().find(|index| **index as usize >= records) {
        Some(index) => Err(format!(
            "returned {index} in {name} for a batch of {records} records"
        )),
        None => Ok(()),
    }
}

fn check_rejections(
    rejections: &[(u32, String)],
    sources: &[u32],
    records: usize,
) -> Result<(), String> {
    let indices: Vec<u32> = rejections.iter().map(|(index, _)| *index).collect();
    in_range("rejections", &indices, records)?;
    if !indices.is_sorted_by(|one, next| one < next) {
        return Err("returned rejections that do not ascend".to_owned());
    }
    match indices
        .iter()
        .find(|index| sources.binary_search(index).is_ok())
    {
        Some(index) => Err(format!("both rejected record {index} and emitted for it")),
        None => Ok(()),
    }
}
