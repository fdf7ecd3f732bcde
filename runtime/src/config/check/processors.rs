//! The processors' part of the check.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Checker, is_warning};
use crate::config::schema::WASM;
use crate::config::types::Wasm;
use crate::config::{PluginFacts, Plugins};
use crate::driver::{Problem, within};
use crate::plugin::{Limits, OnError, PluginId, ProcessorPlan, Tolerance};
use crate::units::ByteSize;

/// What `limits.memory` may be: from one page to all that a guest can address.
const MEMORY: RangeInclusive<ByteSize> = ByteSize(1 << 16)..=ByteSize(4 << 30);
/// What `limits.output` may be; a column of records counts its bytes with 32 bits.
const OUTPUT: RangeInclusive<ByteSize> = ByteSize(1)..=ByteSize(1 << 30);

impl Checker {
    pub(super) fn processors(
        &mut self,
        file: &mut Value,
        folder: &Path,
        unless_said: OnError,
        plugins: &Plugins<'_>,
    ) -> Option<Vec<(ProcessorPlan, PluginId)>> {
        let items = match file.get_mut("processors").map(Value::take) {
            None | Some(Value::Null) => return Some(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return None,
        };
        let plans: Vec<_> = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| self.processor(index, item, folder, unless_said, plugins))
            .collect();
        plans.into_iter().collect()
    }

    fn processor(
        &mut self,
        index: usize,
        mut item: Value,
        folder: &Path,
        unless_said: OnError,
        plugins: &Plugins<'_>,
    ) -> Option<(ProcessorPlan, PluginId)> {
        let pointer = format!("/processors/{index}");
        let name = item.get("driver")?.as_str()?.to_owned();
        if name != WASM {
            self.unknown_driver(&pointer, "processor", &name, &[WASM]);
            return None;
        }
        let pointer = format!("{pointer}/config");
        let mut config = match item.get_mut("config").map(Value::take) {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(config @ Value::Object(_)) => config,
            Some(_) => return None,
        };
        let errors = self.found.len();
        let wasm: Option<Wasm> = self.read(&pointer, &mut config);
        // The plugin's config is checked even where the rest is wrong: all errors at once.
        let plugin = match &wasm {
            Some(wasm) => wasm.plugin.clone(),
            None => config.get("plugin")?.as_str()?.to_owned(),
        };
        let mut own = match config.get_mut("config").map(Value::take) {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(own) => own,
        };
        let limits = wasm.as_ref().map(|wasm| Limits::from(wasm.limits));
        let limits = limits.unwrap_or_default();
        let usable = self.limits(&pointer, &limits);
        let facts = self.plugin(&pointer, &folder.join(&plugin), plugins)?;
        let own_pointer = format!("{pointer}/config");
        let before = self.found.len();
        if self.validate(&own_pointer, &facts.config_schema, &mut own)
            && self.found.len() == before
            && !self.is_unset(&own_pointer)
            && usable
            && let Err(why) = (facts.try_config)(&own, &limits)
        {
            let message = format!("{} does not take this config: {why}", facts.id.name);
            let help = format!("`wirefall inspect {plugin}` shows what it takes");
            self.problem(&own_pointer, Problem::error("", message).help(help));
        }
        let wasm = wasm?;
        let on_error = wasm.on_error.map_or(unless_said, OnError::from);
        if on_error == OnError::Failover && unless_said != OnError::Failover {
            self.problem(
                &pointer,
                Problem::error(
                    "/on_error",
                    "`on_error: failover` but the pipeline has no failover",
                )
                .help("add a `failover`, or choose drop, pass or stop"),
            );
        }
        if let Some(tolerance) = wasm.tolerance
            && tolerance.failures >= tolerance.window
        {
            let message = format!(
                "{} failures among {} records can never be exceeded",
                tolerance.failures, tolerance.window
            );
            self.problem(
                &pointer,
                Problem::error("/tolerance/failures", message)
                    .help("`failures` must be less than `window`"),
            );
        }
        (self.found.len() == errors || self.found[errors..].iter().all(is_warning)).then(|| {
            let plan = ProcessorPlan {
                artifact: facts.artifact,
                config: own,
                on_error,
                limits,
                tolerance: wasm.tolerance.map(|tolerance| Tolerance {
                    failures_max: tolerance.failures,
                    window: tolerance.window,
                }),
            };
            (plan, facts.id)
        })
    }

    fn plugin(&mut self, pointer: &str, path: &Path, plugins: &Plugins<'_>) -> Option<PluginFacts> {
        if self.is_unset(&format!("{pointer}/plugin")) {
            return None;
        }
        match plugins(&path.display().to_string()) {
            Ok(facts) => Some(facts),
            Err(why) => {
                let (message, help) = match why.split_once('\n') {
                    Some((message, help)) => (message, Some(help)),
                    None => (why.as_str(), None),
                };
                let problem = Problem {
                    help: help.map(str::to_owned),
                    ..Problem::error("/plugin", message)
                };
                self.problem(pointer, problem);
                None
            }
        }
    }

    /// Whether anything could run with these limits.
    fn limits(&mut self, pointer: &str, limits: &Limits) -> bool {
        let before = self.found.len();
        let mut problems = Vec::new();
        let sizes = [
            ("/limits/memory", limits.memory_bytes, MEMORY),
            ("/limits/output", limits.output_bytes, OUTPUT),
        ];
        for (pointer, bytes, range) in sizes {
            within(pointer, ByteSize(bytes), range, &mut problems);
        }
        for problem in problems {
            self.problem(pointer, problem);
        }
        if limits.time.is_zero() {
            self.problem(
                pointer,
                Problem::error("/limits/time", "`time` must be more than 0")
                    .help("a call that may take no time always fails"),
            );
        }
        self.found.len() == before
    }
}
