//! What every driver table has in common: a name, a schema, and a checked config.
//!
//! Owns the [`Driver`] entry and the [`Problem`] that a config check reports. Knows no driver: each
//! lives in one file and is named in one table (`source::DRIVERS`, `sink::DRIVERS`, …).

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A future in a box: what an asynchronous call of a driver returns, since drivers are trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Expands a component's config again, with today's environment and files.
pub type Reread = Arc<dyn Fn() -> Result<Value, String> + Send + Sync>;

/// One entry of a driver table; `P` is what its config becomes once checked.
pub struct Driver<P: 'static> {
    /// The name in YAML: `driver: NAME`.
    pub name: &'static str,
    /// One line for `--help`, the schema and the docs.
    pub about: &'static str,
    /// The JSON Schema of its `config`, which is validated against it before `check` sees it. Given a
    /// config, a driver with several forms (`url` or `listen`) answers with the one that is meant;
    /// given `None`, with all of them for editors and docs.
    pub schema: fn(Option<&Value>) -> Schema,
    /// Turns a config that fits the schema into a plan, or says what is wrong. Does no I/O.
    pub check: fn(Value, &Facts) -> Result<P, Vec<Problem>>,
    /// Keys that other products write in this config and that mean nothing here: accepted, warned of.
    pub ignored_keys: &'static [&'static str],
}

/// One layer of a probe: `tcp`, `tls`, `http`, …
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProbeStep {
    /// The layer.
    pub layer: &'static str,
    /// Whether it worked.
    pub ok: bool,
    /// What was seen, secrets redacted.
    pub detail: String,
}

/// What a check may know beside its own config.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The folder of the pipeline file: relative paths start here.
    pub folder: PathBuf,
    /// `service.pipeline_id`: names the stream and the state.
    pub pipeline: String,
    /// The whole component as written beside `driver` and `config` (Blink's `stream_schema`).
    pub component: Value,
    /// How values of the config are written that stand for others (`${TOKEN}`), by their JSON pointers:
    /// what is said of them while the pipeline runs must not show what they stand for (I7).
    pub written: BTreeMap<String, String>,
}

impl Facts {
    /// A path from YAML, relative to the pipeline file.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// Something wrong (or worth a warning) in a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON pointer from the driver's `config` to the value, `""` for the config itself; `../KEY…`
    /// for a value beside `config`.
    pub pointer: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether the pipeline may run all the same.
    pub warning: bool,
}

impl Problem {
    /// An error at `pointer`.
    pub fn error(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
            help: None,
            warning: false,
        }
    }

    /// A warning at `pointer`.
    pub fn warning(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::error(pointer, message)
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The schema of a config with everything in place, no references: its parts can be taken out.
pub fn inline_schema<T: JsonSchema>() -> Schema {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>()
}

/// Refuses a quantity outside of `range`; the pointer's last part is what it is called.
pub fn within<Q: PartialOrd + Display>(
    pointer: &str,
    found: Q,
    range: RangeInclusive<Q>,
    problems: &mut Vec<Problem>,
) {
    let name = pointer.rsplit('/').next().unwrap_or_default();
    let (least, most) = range.into_inner();
    let (bound, limit) = match &found {
        found if *found < least => ("at least", &least),
        found if *found > most => ("at most", &most),
        _ => return,
    };
    let message = format!("`{name}` must be {bound} {limit}, not {found}");
    let help = format!("write it from {least} to {most}");
    problems.push(Problem::error(pointer, message).help(help));
}

/// Reads a config into its type; for the first lines of a driver's `check`.
///
/// # Errors
/// One problem at the config itself: the schema should have caught it with its place.
pub fn read<T: DeserializeOwned>(config: Value) -> Result<T, Vec<Problem>> {
    serde_json::from_value(config).map_err(|error| vec![Problem::error("", error.to_string())])
}

/// What is wrong, on one line: for configs that are read while a run goes on.
pub fn on_one_line(problems: Vec<Problem>) -> String {
    let messages = problems.into_iter().map(|problem| problem.message);
    messages.collect::<Vec<_>>().join("; ")
}
