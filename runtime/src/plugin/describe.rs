//! What a plugin says of itself, asked once a digest and kept.
//!
//! Owns the question and its cache: `check` of a plugin that was seen before runs nothing. Called by
//! config checks, `inspect` and the chain.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::abi::v0_1;
use super::artifact::{Artifact, file_name};
use super::instance::{Fault, FaultKind, Loaded};
use super::log::printable;
use super::{Cache, Columns, Description, Host, Limits, PluginError, PluginId, cache};
use crate::units::{ByteSize, Span};

/// What `describe` may use; a schema is built by running code. No settings: it is asked before the
/// config that could hold them is known.
fn limits() -> Limits {
    Limits {
        time: Duration::from_secs(5),
        log_lines: 10,
        output_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// Longest name, version and line about itself.
const TEXT_BYTES_MAX: usize = 500;

/// The part of a description that the plugin gives, as it is kept.
#[derive(Serialize, Deserialize)]
struct Told {
    name: String,
    version: String,
    about: String,
    config_schema: Value,
    columns: Columns,
}

/// Asks the component at `path` what it is, or the cache if it was asked before.
///
/// # Errors
/// A file that is no plugin, or a plugin for another interface: which side must change.
pub fn describe(path: &Path, cache: &Cache) -> Result<Description, PluginError> {
    let artifact = Artifact::read(path)?;
    described(&artifact, cache, || Host::new(cache.clone()))
}

/// Lets the component at `path` read `config` as it would at the start of a run with these limits.
///
/// # Errors
/// The plugin's own words, where it refuses the config; the limit that it passed.
pub fn try_config(
    path: &Path,
    config: &Value,
    limits: &Limits,
    cache: &Cache,
) -> Result<(), PluginError> {
    let artifact = Artifact::read(path)?;
    let host = Host::new(cache.clone())?;
    Loaded::new(&host, &artifact, limits)?
        .start_configured(&config_text(config))
        .map(drop)
        .map_err(|fault| PluginError::wrong(&artifact.label, fault.reason))
}

/// A plugin that does not start: its own words.
pub(super) fn refused(label: &str, fault: &Fault) -> PluginError {
    PluginError::wrong(label, format!("does not start: {}", fault.reason))
}

/// Config as the guest reads it; none at all is an empty object.
pub(super) fn config_text(config: &Value) -> String {
    if config.is_null() {
        return "{}".to_owned();
    }
    config.to_string()
}

/// The description of `artifact`; `host` is only made where the cache has none.
pub(super) fn described(
    artifact: &Artifact,
    cache: &Cache,
    host: impl FnOnce() -> Result<Host, PluginError>,
) -> Result<Description, PluginError> {
    let name = format!("{}.json", file_name(&artifact.digest));
    let kept = cache::read(cache, "describe", &name);
    let kept = kept.and_then(|told| serde_json::from_slice::<Told>(&told).ok());
    let told = match kept {
        Some(told) => told,
        None => {
            let told = ask(artifact, &host()?)?;
            let text = serde_json::to_vec(&told).expect("a description has a JSON form");
            cache::write(cache, "describe", &name, &text);
            told
        }
    };
    Ok(Description {
        id: PluginId {
            name: told.name,
            version: told.version,
            digest: artifact.digest.clone(),
        },
        abi: artifact.abi.clone(),
        about: told.about,
        config_schema: told.config_schema,
        columns: told.columns,
        imports: artifact.imports.clone(),
        size_bytes: artifact.bytes.len() as u64,
    })
}

/// Why a plugin cannot be asked. The limits here are not the settings that other faults name.
fn cannot_describe(fault: &Fault) -> String {
    let limits = limits();
    match fault.kind {
        FaultKind::Time => format!(
            "takes longer than {} to start and to describe itself",
            Span(limits.time)
        ),
        FaultKind::Memory => format!(
            "needs more memory than {} to start and to describe itself",
            ByteSize(limits.memory_bytes)
        ),
        _ => format!("cannot describe itself: {}", fault.reason),
    }
}

/// Runs `describe` in an instance with nothing granted.
fn ask(artifact: &Artifact, host: &Host) -> Result<Told, PluginError> {
    let wrong = |message: String| PluginError::wrong(&artifact.label, message);
    let fault = |fault: Fault| wrong(cannot_describe(&fault));
    let loaded = Loaded::new(host, artifact, &limits())?;
    let told = loaded
        .start()
        .and_then(|mut instance| instance.describe())
        .map_err(fault)?;
    let config_schema: Value = serde_json::from_str(&told.config_schema)
        .map_err(|error| wrong(format!("gives a config schema that is no JSON: {error}")))?;
    if !(config_schema.is_object() || config_schema.is_boolean()) {
        return Err(wrong(
            "gives a config schema that is no JSON Schema".to_owned(),
        ));
    }
    Ok(Told {
        columns: v0_1::columns(&told),
        name: printable(&told.name, TEXT_BYTES_MAX),
        version: printable(&told.version, TEXT_BYTES_MAX),
        about: printable(&told.about, TEXT_BYTES_MAX),
        config_schema,
    })
}
