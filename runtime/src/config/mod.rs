//! Pipeline configuration: spec (YAML as written, with places) → check → plan (validated).
//!
//! The only place that names the YAML library. Does no I/O and reads no clock: it is given the text,
//! the environment and what plugins say of themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::plugin::{Limits, PluginId};

mod check;
mod diagnostic;
mod docs;
mod expand;
mod meant;
pub mod plan;
mod scalars;
mod schema;
mod shape;
mod spec;
mod types;
mod words;

pub use check::check;
pub use diagnostic::{Diagnostic, Severity, render_all};
pub use docs::docs;
pub use expand::{Environment, ReadFile, Variable};
pub use plan::{Plan, ServicePlan};
pub use schema::schema;
pub use spec::{FILE_BYTES_MAX, Spec};

/// Lets a plugin read its config as it would at the start of a run with these limits; an error is in
/// its own words.
pub type TryConfig = dyn Fn(&Value, &Limits) -> Result<(), String> + Send + Sync;

/// What a plugin says of itself, found out before the check.
#[derive(Clone)]
pub struct PluginFacts {
    /// The component file; a crate folder was built to it.
    pub artifact: PathBuf,
    /// Name, version and digest.
    pub id: PluginId,
    /// The JSON Schema of its config.
    pub config_schema: Value,
    /// Asked once the config fits the schema.
    pub try_config: Arc<TryConfig>,
}

/// Finds out about the plugin at a path (relative paths were joined to the pipeline file's folder).
/// In an error the first line is the message, what follows is advice.
pub type Plugins<'a> = dyn Fn(&str) -> Result<PluginFacts, String> + 'a;

/// Reads and checks a pipeline file whose bytes are `text`; `file` is its path as the user named it.
/// `Ok` comes with warnings.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load(
    file: &Path,
    text: &[u8],
    environment: &Environment,
    plugins: &Plugins<'_>,
) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (spec, problems) = Spec::parse(file, text)?;
    match check(spec, environment, plugins) {
        Ok((plan, warnings)) if problems.is_empty() => Ok((plan, warnings)),
        Ok((_, others)) | Err(others) => {
            let mut all: Vec<Diagnostic> = problems.into_iter().chain(others).collect();
            all.sort_by_key(|one| (one.line, one.column, one.severity));
            Err(diagnostic::told(all))
        }
    }
}

/// Reads and checks the `service` of a pipeline file alone: for verbs that have to know where its state is,
/// and neither its secrets nor its plugins.
///
/// # Errors
/// What is wrong with the file's shape, or with `service`.
pub fn service(
    file: &Path,
    text: &[u8],
    environment: &Environment,
) -> Result<ServicePlan, Vec<Diagnostic>> {
    let (spec, _) = Spec::parse(file, text)?;
    check::check_service(spec, environment)
}
