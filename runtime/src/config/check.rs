//! The check: from a spec, an environment and what plugins say of themselves to a plan.
//!
//! Owns what makes a pipeline right or wrong (I6) and finds everything at once. Does no I/O: all it
//! knows beside the text is given. The drivers' own schemas and checks do the drivers' part.

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::driver::{Driver, Facts, Problem};
use crate::failover;
use crate::plugin::{Limits, OnError, PluginId, ProcessorPlan, Tolerance};
use crate::sink;
use crate::sink::Reread;
use crate::source;
use crate::source::BatchLimits;

use super::diagnostic::{Diagnostic, Severity};
use super::expand::{Environment, Secrets, expand};
use super::plan::{JournalPlan, Plan, Scaling, ServicePlan};
use super::schema::{WASM, entries, envelope, schema_of};
use super::spec::{Kind, Located, Node, Place, Spec, resolve};
use super::types::{Journal, SERVICE_IGNORED, Service, TOP_IGNORED, Wasm};
use super::words::{self, At, Finding};
use super::{PluginFacts, Plugins};

/// Checks a spec. `Ok` comes with warnings, `Err` with warnings among the errors; both in the order
/// of the file.
///
/// # Errors
/// Everything that is wrong.
pub fn check(
    spec: Spec,
    environment: &Environment,
    plugins: &Plugins<'_>,
) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut secrets = Secrets::default();
    let mut found = Vec::new();
    let root = expand(&spec, &spec.root, environment, &mut secrets, &mut found);
    let unset = found.iter().map(|one| (one.line, one.column)).collect();
    let mut checker = Checker {
        spec: Arc::new(spec),
        root,
        secrets,
        unset,
        found,
    };
    let plan = checker.plan(environment, plugins);
    let mut found = checker.found;
    if plan.is_none() && found.iter().all(is_warning) {
        let message = "a driver refuses its config without saying why";
        found.push(Diagnostic::of_file(&checker.spec.file, message));
    }
    found.sort_by_key(|one| (one.line, one.column, one.severity));
    found.dedup();
    match plan {
        Some(plan) if found.iter().all(is_warning) => Ok((plan, found)),
        _ => Err(found),
    }
}

struct Checker {
    spec: Arc<Spec>,
    /// The document with its names expanded.
    root: Node,
    secrets: Secrets,
    /// Where a name could not be expanded: nothing more is said of those values.
    unset: Vec<(usize, usize)>,
    found: Vec<Diagnostic>,
}

impl Checker {
    fn plan(&mut self, environment: &Environment, plugins: &Plugins<'_>) -> Option<Plan> {
        let mut file = self.root.to_json();
        self.ignore(
            "",
            &mut file,
            TOP_IGNORED,
            "is Blink's and means nothing here",
        );
        self.validate("", &envelope(), &mut file);
        self.misplaced(&mut file);
        let service = self.service(&mut file);
        let folder = self.spec.file.parent().unwrap_or(Path::new("")).to_owned();
        let facts = Facts {
            folder: folder.clone(),
            pipeline: service
                .as_ref()
                .map_or_else(String::new, |service| service.pipeline_id.0.clone()),
            component: Value::Null,
        };
        let source = self.driver("source", "source", source::DRIVERS, &file, &facts);
        let sink = self.driver("sink", "sink", sink::DRIVERS, &file, &facts);
        let has_failover = file.get("failover").is_some_and(|value| !value.is_null());
        let failover = has_failover
            .then(|| self.driver("failover", "failover", failover::DRIVERS, &file, &facts));
        let processors = self.processors(&mut file, &folder, has_failover, plugins);
        let journal = match file.get_mut("journal") {
            None => Some(Journal::default()),
            Some(value) => {
                let mut value = value.take();
                self.read("/journal", &mut value)
            }
        };
        let (service, journal) = (service?, journal?);
        self.journal_fits(&service, &journal);
        let (processors, plugins) = processors?.into_iter().unzip();
        let (sink, sink_driver) = sink?;
        Some(Plan {
            file: self.spec.file.clone(),
            service: service_plan(service, &folder),
            source: source?.0,
            processors,
            plugins,
            sink,
            reread_sink: self.reread_sink(sink_driver, environment),
            failover: match failover {
                None => None,
                Some(failover) => Some(failover?.0),
            },
            journal: JournalPlan {
                bytes_max: journal.bytes.0,
                age_max: journal.age.map(|age| age.0),
            },
        })
    }

    fn service(&mut self, file: &mut Value) -> Option<Service> {
        let service = file.get_mut("service")?;
        let mut value = service.take();
        self.ignore(
            "/service",
            &mut value,
            SERVICE_IGNORED,
            "is Blink's and means nothing here",
        );
        // Older Blink files have the schema of the source here.
        if let Some(streams) = value
            .as_object_mut()
            .and_then(|map| map.remove("stream_schema"))
            && let Some(source) = file.get_mut("source").and_then(Value::as_object_mut)
        {
            source.entry("stream_schema").or_insert(streams);
        }
        let service: Service = self.read("/service", &mut value)?;
        let id = &service.pipeline_id.0;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > 64 || !id.chars().all(legal) || id.starts_with('.') {
            let message =
                format!("`{id}` cannot be a `pipeline_id`: it is part of a URL and of a path");
            self.problem(
                "/service",
                Problem::error("/pipeline_id", message)
                    .help("use letters, digits, `-`, `_` and `.`, 64 at most, no `.` first"),
            );
        }
        if service.batch_bytes.0 < 1024 {
            self.problem(
                "/service",
                Problem::error("/batch_bytes", "`batch_bytes` must be at least 1KiB"),
            );
        }
        let scaling = &service.scaling;
        if let Some(max) = scaling.max.filter(|max| *max < scaling.min) {
            let message = format!("`min` is {} workers but `max` is {max}", scaling.min);
            self.problem(
                "/service",
                Problem::error("/scaling/max", message).help("`max` is `min` or more"),
            );
        }
        if scaling.up_above <= scaling.down_below {
            let message = format!(
                "workers would start above {} and stop below {}: they would come and go without end",
                scaling.up_above, scaling.down_below
            );
            self.problem(
                "/service",
                Problem::error("/scaling/down_below", message)
                    .help("`down_below` must be less than `up_above`"),
            );
        }
        Some(service)
    }

    fn journal_fits(&mut self, service: &Service, journal: &Journal) {
        if journal.bytes.0 < service.batch_bytes.0.saturating_mul(2) {
            let message = format!(
                "a journal of {} is too small for batches of {}",
                journal.bytes, service.batch_bytes
            );
            self.problem(
                "/journal",
                Problem::error("/bytes", message)
                    .help("`journal.bytes` must be twice `service.batch_bytes` or more"),
            );
        }
    }

    /// A component's driver, its config validated and checked.
    fn driver<P>(
        &mut self,
        key: &str,
        noun: &str,
        drivers: &'static [&'static Driver<P>],
        file: &Value,
        facts: &Facts,
    ) -> Option<(P, &'static Driver<P>)> {
        let component = file.get(key)?.as_object()?;
        let name = component.get("driver")?.as_str()?;
        let pointer = format!("/{key}");
        let Some(&driver) = drivers.iter().find(|driver| driver.name == name) else {
            let names: Vec<&str> = drivers.iter().map(|driver| driver.name).collect();
            self.unknown_driver(&pointer, noun, name, &names);
            return None;
        };
        let pointer = format!("{pointer}/config");
        let mut config = match component.get("config") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(config @ Value::Object(_)) => config.clone(),
            Some(_) => return None,
        };
        let why = format!("means nothing to the {noun} `{name}`");
        self.ignore(&pointer, &mut config, driver.ignored_keys, &why);
        let schema = (driver.schema)(Some(&config)).to_value();
        if !self.validate(&pointer, &schema, &mut config) {
            return None;
        }
        let all_forms = (driver.schema)(None).to_value();
        if schema.get("properties").is_none()
            && self.unknown_in_all_forms(&pointer, &all_forms, &config)
        {
            return None;
        }
        let mut beside = component.clone();
        beside.remove("config");
        let facts = Facts {
            component: Value::Object(beside),
            ..facts.clone()
        };
        match (driver.check)(config, &facts) {
            Ok(plan) => Some((plan, driver)),
            Err(problems) => {
                for problem in problems {
                    self.problem(&pointer, problem);
                }
                None
            }
        }
    }

    /// A driver of several forms that cannot tell which one is meant still knows all its keys.
    /// Whether there is a misspelt one, which explains that.
    fn unknown_in_all_forms(&mut self, pointer: &str, schema: &Value, config: &Value) -> bool {
        let known = words::properties(schema, schema);
        if known.is_empty() {
            return false;
        }
        let mut misspelt = false;
        for (key, _) in config.as_object().into_iter().flatten() {
            if known.iter().any(|(name, _)| name == key) {
                continue;
            }
            let meant = words::similar(key, known.iter().map(|(name, _)| name.as_str()));
            misspelt |= meant.is_some();
            let finding = Finding {
                pointer: String::new(),
                help: meant
                    .as_ref()
                    .map(|meant| format!("did you mean `{meant}`?")),
                at: At::Unknown(key.clone(), meant),
                message: format!("unknown key `{key}`"),
            };
            self.finding(pointer, finding);
        }
        misspelt
    }

    fn unknown_driver(&mut self, pointer: &str, noun: &str, name: &str, known: &[&str]) {
        let known_words = format!("{noun}s there are: {}", known.join(", "));
        let help = match words::similar(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`? {known_words}"),
            None if noun == "processor" => {
                format!("{known_words}; write what `{name}` does as a plugin: wirefall new")
            }
            None => known_words,
        };
        let message = format!("there is no {noun} `{name}`");
        self.problem(pointer, Problem::error("/driver", message).help(help));
    }

    fn processors(
        &mut self,
        file: &mut Value,
        folder: &Path,
        has_failover: bool,
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
            .map(|(index, item)| self.processor(index, item, folder, has_failover, plugins))
            .collect();
        plans.into_iter().collect()
    }

    fn processor(
        &mut self,
        index: usize,
        mut item: Value,
        folder: &Path,
        has_failover: bool,
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
        let facts = self.plugin(&pointer, &folder.join(&plugin), plugins)?;
        let own_pointer = format!("{pointer}/config");
        if self.validate(&own_pointer, &facts.config_schema, &mut own)
            && !self.is_unset(&own_pointer)
            && let Err(why) = (facts.try_config)(&own)
        {
            let message = format!("{} does not take this config: {why}", facts.id.name);
            self.problem(&own_pointer, Problem::error("", message));
        }
        let wasm = wasm?;
        let on_error = match wasm.on_error {
            Some(named) => named.into(),
            None if has_failover => OnError::Failover,
            None => OnError::Stop,
        };
        if on_error == OnError::Failover && !has_failover {
            self.problem(
                &pointer,
                Problem::error(
                    "/on_error",
                    "`on_error: failover` but the pipeline has no failover",
                )
                .help("add a `failover`, or choose drop, pass or stop"),
            );
        }
        let limits = Limits::from(wasm.limits);
        self.limits(&pointer, &limits);
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

    fn limits(&mut self, pointer: &str, limits: &Limits) {
        const WASM_PAGE_BYTES: u64 = 65536;
        if limits.memory_bytes < WASM_PAGE_BYTES {
            self.problem(
                pointer,
                Problem::error(
                    "/limits/memory",
                    "`memory` must be at least 64KiB, one page",
                ),
            );
        }
        if limits.time.is_zero() {
            self.problem(
                pointer,
                Problem::error("/limits/time", "`time` must be more than 0")
                    .help("a call that may take no time always fails"),
            );
        }
        if limits.output_bytes == 0 {
            self.problem(
                pointer,
                Problem::error("/limits/output", "`output` must be more than 0"),
            );
        }
    }

    /// Keys one level too high: said once, with where they belong.
    fn misplaced(&mut self, file: &mut Value) {
        let service = schema_of::<Service>();
        let tables = [
            ("source", entries(source::DRIVERS)),
            ("sink", entries(sink::DRIVERS)),
            ("failover", entries(failover::DRIVERS)),
        ];
        let mut belongs: Vec<(String, String)> = words::properties(&service, &service)
            .into_iter()
            .map(|(key, _)| (format!("/{key}"), "/service".to_owned()))
            .collect();
        for (component, drivers) in tables {
            let Some(name) = file[component]["driver"].as_str() else {
                continue;
            };
            let driver = drivers.into_iter().find(|driver| driver.name == name);
            for (key, _) in driver
                .iter()
                .flat_map(|driver| words::properties(&driver.schema, &driver.schema))
            {
                belongs.push((
                    format!("/{component}/{key}"),
                    format!("/{component}/config"),
                ));
            }
        }
        for (pointer, owner) in belongs {
            let located = self.root.locate(&pointer);
            let (Some(key), true) = (located.key, located.whole) else {
                continue;
            };
            let (name, message) = (key.name.clone(), format!("unknown key `{}`", key.name));
            let place = (key.place.line, key.place.column);
            let owner_name = owner.trim_start_matches('/').replace('/', ".");
            for one in &mut self.found {
                if (one.line, one.column) == place && one.message == message {
                    one.help = Some(format!("`{name}` belongs under `{owner_name}`"));
                }
            }
            put(file, &owner, name, located.node.to_json());
        }
    }

    /// Validates and reads a part that is no driver's.
    fn read<T: DeserializeOwned + schemars::JsonSchema>(
        &mut self,
        pointer: &str,
        value: &mut Value,
    ) -> Option<T> {
        if !self.validate(pointer, &schema_of::<T>(), value) {
            return None;
        }
        match serde_json::from_value(value.clone()) {
            Ok(read) => Some(read),
            Err(error) => {
                self.problem(pointer, Problem::error("", error.to_string()));
                None
            }
        }
    }

    /// Reports everything in `value` that does not fit; expanded values become what is asked for.
    fn validate(&mut self, pointer: &str, schema: &Value, value: &mut Value) -> bool {
        let part = self.root.locate(pointer);
        let empty = Node {
            kind: Kind::Null,
            place: Place::default(),
            written: None,
        };
        let part = if part.whole { part.node.clone() } else { empty };
        let is_expanded = |at: &str| {
            let located = part.locate(at);
            located.whole && located.node.written.is_some()
        };
        let resolved = |text: &str| match resolve(text) {
            Kind::Number(number) => Value::Number(number),
            Kind::Bool(truth) => Value::Bool(truth),
            _ => Value::Null,
        };
        words::coerce(schema, value, &is_expanded, &resolved);
        let shown = |at: &str| {
            let located = part.locate(at);
            located
                .whole
                .then(|| located.node.written.clone())
                .flatten()
        };
        match words::findings(&dotted(pointer), schema, value, &shown) {
            Ok(findings) => {
                let fits = findings.is_empty();
                for finding in findings {
                    self.finding(pointer, finding);
                }
                fits
            }
            Err(error) => {
                let message = format!("the schema of {} is wrong: {error}", dotted(pointer));
                let problem =
                    Problem::error("", message).help("the plugin's author has to mend it");
                self.problem(pointer, problem);
                false
            }
        }
    }

    /// Warns of keys that mean nothing here and takes them out.
    fn ignore(&mut self, pointer: &str, value: &mut Value, keys: &[&str], why: &str) {
        let Some(map) = value.as_object_mut() else {
            return;
        };
        for key in keys {
            if map.remove(*key).is_none() {
                continue;
            }
            let located = self.root.locate(&format!("{pointer}/{key}"));
            let place = located.owner();
            let warning = self
                .spec
                .warning(place, format!("`{key}` {why}: it is ignored"));
            self.found.push(warning);
        }
    }

    fn finding(&mut self, prefix: &str, finding: Finding) {
        let located = self.root.locate(&format!("{prefix}{}", finding.pointer));
        let place = match &finding.at {
            At::Value => value_place(located),
            At::Missing(_) if prefix.is_empty() && finding.pointer.is_empty() => Place::default(),
            At::Missing(_) => located.owner(),
            At::Unknown(key, _) => match located.node.entry(key) {
                Some((key, _)) => key.place,
                None => located.owner(),
            },
        };
        self.report(
            place,
            finding.message,
            finding.help,
            false,
            located.node.expanded(),
        );
    }

    fn problem(&mut self, prefix: &str, problem: Problem) {
        // `../stream_schema`: beside the config.
        let pointer = match problem.pointer.strip_prefix("..") {
            Some(beside) => {
                let component = prefix
                    .rsplit_once('/')
                    .map_or("", |(component, _)| component);
                format!("{component}{beside}")
            }
            None => format!("{prefix}{}", problem.pointer),
        };
        let located = self.root.locate(&pointer);
        let near = located.node.expanded();
        self.report(
            value_place(located),
            problem.message,
            problem.help,
            problem.warning,
            near,
        );
    }

    fn report(
        &mut self,
        place: Place,
        message: String,
        help: Option<String>,
        warning: bool,
        near_expanded: bool,
    ) {
        if self.unset.iter().any(|at| place.contains(*at)) {
            return;
        }
        // Whatever a driver or a plugin says: no expanded value in it (I7).
        let message = self.secrets.redact(&message, near_expanded);
        let mut diagnostic = self.spec.error(place, message);
        diagnostic.help = help.map(|help| self.secrets.redact(&help, near_expanded));
        if warning {
            diagnostic.severity = Severity::Warning;
        }
        self.found.push(diagnostic);
    }

    /// Whether a name in the value at `pointer` could not be expanded.
    fn is_unset(&self, pointer: &str) -> bool {
        fn holds(node: &Node, unset: &[(usize, usize)]) -> bool {
            match &node.kind {
                Kind::List(items, _) => items.iter().any(|item| holds(item, unset)),
                Kind::Map(entries, _) => entries.iter().any(|(_, value)| holds(value, unset)),
                _ => unset.iter().any(|at| node.place.contains(*at)),
            }
        }
        let located = self.root.locate(pointer);
        located.whole && holds(located.node, &self.unset)
    }

    /// Expands `sink.config` again with today's environment and files.
    fn reread_sink<P>(&self, driver: &'static Driver<P>, environment: &Environment) -> Reread {
        let spec = Arc::clone(&self.spec);
        let environment = environment.clone();
        Arc::new(move || {
            let Some(config) = spec.root.get("sink").and_then(|sink| sink.get("config")) else {
                return Ok(Value::Object(Map::new()));
            };
            let mut problems = Vec::new();
            let mut secrets = Secrets::default();
            let node = expand(&spec, config, &environment, &mut secrets, &mut problems);
            if let Some(problem) = problems.first() {
                return Err(problem.message.clone());
            }
            let mut config = node.to_json();
            if let Some(map) = config.as_object_mut() {
                map.retain(|key, _| !driver.ignored_keys.contains(&key.as_str()));
            }
            let schema = (driver.schema)(Some(&config)).to_value();
            let is_expanded = |at: &str| {
                let located = node.locate(at);
                located.whole && located.node.written.is_some()
            };
            let resolved = |text: &str| match resolve(text) {
                Kind::Number(number) => Value::Number(number),
                Kind::Bool(truth) => Value::Bool(truth),
                _ => Value::Null,
            };
            words::coerce(&schema, &mut config, &is_expanded, &resolved);
            Ok(config)
        })
    }
}

/// Puts a misplaced value where it belongs, so that it is not missed there as well.
fn put(file: &mut Value, owner: &str, key: String, value: Value) {
    let (parent, last) = owner.rsplit_once('/').unwrap_or_default();
    let Some(parent) = file.pointer_mut(parent).and_then(Value::as_object_mut) else {
        return;
    };
    let map = parent.entry(last).or_insert(Value::Null);
    if map.is_null() {
        *map = Value::Object(Map::new());
    }
    if let Some(map) = map.as_object_mut() {
        map.entry(key).or_insert(value);
    }
}

fn is_warning(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == Severity::Warning
}

/// Where a wrong value stands; where it is missing, what should have it.
fn value_place(located: Located<'_>) -> Place {
    if located.whole {
        located.place()
    } else {
        located.owner()
    }
}

/// `/sink/config` → `` `sink.config` ``, `/processors/0/config` → `` `processors[0].config` ``.
fn dotted(pointer: &str) -> String {
    let mut text = String::new();
    for segment in pointer.split('/').skip(1) {
        match segment.parse::<usize>() {
            Ok(index) => text.push_str(&format!("[{index}]")),
            Err(_) if text.is_empty() => text.push_str(segment),
            Err(_) => {
                text.push('.');
                text.push_str(segment);
            }
        }
    }
    if text.is_empty() {
        "the file".to_owned()
    } else {
        format!("`{text}`")
    }
}

fn service_plan(service: Service, folder: &Path) -> ServicePlan {
    let scaling = service.scaling;
    let state_dir = folder.join(&service.state).join(&service.pipeline_id.0);
    ServicePlan {
        state_dir,
        pipeline_id: service.pipeline_id.0,
        batch: BatchLimits {
            records_max: service.batch_size as usize,
            bytes_max: usize::try_from(service.batch_bytes.0).unwrap_or(usize::MAX),
            wait: service.batch_wait.0,
        },
        scaling: Scaling {
            min: scaling.min.into(),
            max: scaling.max.unwrap_or(scaling.min).into(),
            up_above: scaling.up_above.0,
            down_below: scaling.down_below.0,
        },
        shutdown_timeout: service.shutdown_timeout.0,
    }
}
