//! The check: from a spec, an environment and what plugins say of themselves to a plan.
//!
//! Owns what makes a pipeline right or wrong (I6) and finds everything at once. Does no I/O: all it
//! knows beside the text is given. The drivers' own schemas and checks do the drivers' part.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::driver::{Driver, Facts, Problem, Reread, within};
use crate::failover;
use crate::journal::disk::Sync;
use crate::plugin::OnError;
use crate::port::keys::{Address, local_address};
use crate::sink;
use crate::source;
use crate::source::BatchLimits;
use crate::units::ByteSize;

use super::Plugins;
use super::diagnostic::{Diagnostic, Severity};
use super::expand::{Environment, Secrets, expand};
use super::meant;
use super::plan::{DiskPlan, JournalPlan, Plan, Scaling, ServicePlan};
use super::scalars;
use super::schema::{self, envelope, schema_of};
use super::spec::{Kind, Node, Spec};
use super::types::{
    JOURNAL_KEYS, Journal, JournalDriver, SERVICE_IGNORED, Service, SyncName, TOP_IGNORED,
};

/// What `service.batch_bytes` may be; a column of records counts its bytes with 32 bits.
const BATCH_BYTES: RangeInclusive<ByteSize> = ByteSize(1 << 10)..=ByteSize(1 << 30);

mod apart;
mod keys;
mod processors;
mod report;

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
    let mut checker = Checker::new(spec, environment);
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

/// Checks `service` alone.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_service(
    mut spec: Spec,
    environment: &Environment,
) -> Result<ServicePlan, Vec<Diagnostic>> {
    if let Kind::Map(entries, _) = &mut spec.root.kind {
        entries.retain(|(key, _)| key.name == "service");
    }
    let mut checker = Checker::new(spec, environment);
    let mut file = checker.root.to_json();
    let service = checker.service(&mut file);
    let mut found = checker.found;
    found.retain(|one| !is_warning(one));
    match service {
        Some(service) if found.is_empty() => {
            let folder = checker.spec.file.parent().unwrap_or(Path::new(""));
            Ok(service_plan(service, folder))
        }
        _ if found.is_empty() => {
            let message = "the file has no `service`";
            Err(vec![Diagnostic::of_file(&checker.spec.file, message)])
        }
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
    /// Pointers to what did not fit its schema and was taken out.
    cut: Vec<String>,
    found: Vec<Diagnostic>,
}

impl Checker {
    fn new(spec: Spec, environment: &Environment) -> Self {
        let mut secrets = Secrets::default();
        let mut found = Vec::new();
        let root = expand(&spec, &spec.root, environment, &mut secrets, &mut found);
        let unset = found.iter().map(|one| (one.line, one.column)).collect();
        Self {
            spec: Arc::new(spec),
            root,
            secrets,
            unset,
            cut: Vec::new(),
            found,
        }
    }

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
            pipeline: service.as_ref().map_or_else(String::new, |service| {
                service.pipeline_id.0.reveal().to_owned()
            }),
            component: Value::Null,
            written: BTreeMap::new(),
        };
        let source = self.driver("source", "source", source::DRIVERS, &file, &facts);
        if let Some((source, _)) = &source {
            for problem in source.warnings() {
                self.problem("/source/config", problem);
            }
        }
        let sink = self.driver("sink", "sink", sink::DRIVERS, &file, &facts);
        let has_failover = file.get("failover").is_some_and(|value| !value.is_null());
        let failover = has_failover
            .then(|| self.driver("failover", "failover", failover::DRIVERS, &file, &facts));
        self.files_apart(
            source.as_ref().map(|(source, _)| &**source),
            sink.as_ref().and_then(|(sink, _)| sink.writes()),
            failover
                .as_ref()
                .and_then(|failover| failover.as_ref()?.0.writes()),
        );
        self.ports_apart(
            source.as_ref().and_then(|(source, _)| source.listens()),
            sink.as_ref().and_then(|(sink, _)| sink.listens()),
            service
                .as_ref()
                .and_then(|service| metrics_address(service)?.ok()),
        );
        let sender_is_told = source.as_ref().is_some_and(|(s, _)| s.tells_senders());
        let unless_said = OnError::unless_said(has_failover, sender_is_told);
        let processors = self.processors(&mut file, &folder, unless_said, plugins);
        let journal = match file.get_mut("journal") {
            None => Some(Journal::default()),
            Some(value) => self.journal(value.take()),
        };
        let (service, journal) = (service?, journal?);
        self.journal_fits(&service, &journal);
        let service = service_plan(service, &folder);
        let journal = journal_plan(journal, &service, &folder);
        let (processors, plugins) = processors?.into_iter().unzip();
        let (source, source_driver) = source?;
        let (sink, sink_driver) = sink?;
        Some(Plan {
            file: self.spec.file.clone(),
            service,
            reread_source: self.reread("source", source_driver, environment),
            source,
            processors,
            plugins,
            sink,
            reread_sink: self.reread("sink", sink_driver, environment),
            failover: match failover {
                None => None,
                Some(failover) => Some(failover?.0),
            },
            journal,
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
        let id = service.pipeline_id.0.reveal();
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
        let mut problems = Vec::new();
        within(
            "/batch_bytes",
            service.batch_bytes,
            BATCH_BYTES,
            &mut problems,
        );
        problems.extend(metrics_address(&service).and_then(Result::err));
        for problem in problems {
            self.problem("/service", problem);
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

    /// `journal`; a key of another driver is an error, as it would do nothing.
    fn journal(&mut self, mut value: Value) -> Option<Journal> {
        let written = value.clone();
        let journal: Journal = self.read("/journal", &mut value)?;
        for (driver, name, keys) in JOURNAL_KEYS {
            let foreign = keys.iter().filter(|key| written.get(**key).is_some());
            for key in foreign.filter(|_| *driver != journal.driver) {
                let message = format!("`{key}` belongs to a journal with `driver: {name}`");
                let help = match *key {
                    "bytes" | "age" => format!("write `retention: {{ {key}: … }}`"),
                    _ => format!("say `driver: {name}`, or leave it out"),
                };
                let problem = Problem::error(format!("/{key}"), message).help(help);
                self.problem("/journal", problem);
            }
        }
        for (pointer, age) in [
            ("/age", &journal.age),
            ("/retention/age", &journal.retention.age),
        ] {
            if age.as_ref().is_some_and(|age| age.0.is_zero()) {
                let problem = Problem::error(pointer, "must be longer than 0");
                let help = "leave `age` out where `bytes` alone bounds what is kept";
                self.problem("/journal", problem.help(help));
            }
        }
        let is_timed = journal.sync == SyncName::Interval;
        if journal.driver == JournalDriver::Disk && !is_timed && written.get("interval").is_some() {
            let message = "`interval` belongs to `sync: interval`";
            let problem = Problem::error("/interval", message);
            self.problem(
                "/journal",
                problem.help("say `sync: interval`, or leave it out"),
            );
        }
        Some(journal)
    }

    fn journal_fits(&mut self, service: &Service, journal: &Journal) {
        let (bytes, pointer, name, batches, words) = match journal.driver {
            JournalDriver::Memory => (journal.bytes, "/bytes", "journal.bytes", 2, "twice"),
            JournalDriver::Disk => {
                let bytes = journal.retention.bytes;
                let name = "journal.retention.bytes";
                (bytes, "/retention/bytes", name, 8, "eight times")
            }
        };
        if bytes.0 < service.batch_bytes.0.saturating_mul(batches) {
            let message = format!(
                "a journal of {bytes} is too small for batches of {}",
                service.batch_bytes
            );
            let help = format!("`{name}` must be {words} `service.batch_bytes` or more");
            self.problem("/journal", Problem::error(pointer, message).help(help));
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
        let schema = schema::of(driver, Some(&config));
        if !self.validate(&pointer, &schema, &mut config) {
            return None;
        }
        let all_forms = schema::of(driver, None);
        if schema.get("additionalProperties").is_none()
            && self.unknown_in_all_forms(&pointer, &all_forms, &config)
        {
            return None;
        }
        let mut beside = component.clone();
        beside.remove("config");
        let facts = Facts {
            component: Value::Object(beside),
            written: self
                .root
                .at(&pointer)
                .map(Node::all_written)
                .unwrap_or_default(),
            ..facts.clone()
        };
        scalars::whole_numbers(&mut config);
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

    fn unknown_driver(&mut self, pointer: &str, noun: &str, name: &str, known: &[&str]) {
        let known_words = format!("{noun}s there are: {}", known.join(", "));
        let help = match meant::similar(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`? {known_words}"),
            None if noun == "processor" => {
                format!("{known_words}; write what `{name}` does as a plugin: wirefall new")
            }
            None => known_words,
        };
        let message = format!("there is no {noun} `{name}`");
        self.problem(pointer, Problem::error("/driver", message).help(help));
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
        let mut whole = value.clone();
        scalars::whole_numbers(&mut whole);
        match serde_json::from_value(whole) {
            Ok(read) => Some(read),
            Err(error) => {
                self.problem(pointer, Problem::error("", error.to_string()));
                None
            }
        }
    }

    /// Expands the `config` of a component again with today's environment and files.
    fn reread<P>(
        &self,
        component: &'static str,
        driver: &'static Driver<P>,
        environment: &Environment,
    ) -> Reread {
        let spec = Arc::clone(&self.spec);
        let environment = environment.clone();
        Arc::new(move || {
            let Some(config) = spec
                .root
                .get(component)
                .and_then(|component| component.get("config"))
            else {
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
            let schema = schema::of(driver, Some(&config));
            scalars::coerce(&schema, &mut config, &|at| node.at(at));
            scalars::whole_numbers(&mut config);
            Ok(config)
        })
    }
}

fn is_warning(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == Severity::Warning
}

fn journal_plan(journal: Journal, service: &ServicePlan, folder: &Path) -> JournalPlan {
    match journal.driver {
        JournalDriver::Memory => JournalPlan {
            bytes_max: journal.bytes.0,
            age_max: journal.age.map(|age| age.0),
            disk: None,
        },
        JournalDriver::Disk => JournalPlan {
            bytes_max: journal.retention.bytes.0,
            age_max: journal.retention.age.map(|age| age.0),
            disk: Some(DiskPlan {
                path: match journal.path {
                    Some(path) => folder.join(path),
                    None => service.state_dir.join("journal"),
                },
                sync: match journal.sync {
                    SyncName::Batch => Sync::Batch,
                    SyncName::Interval => Sync::Interval(journal.interval.0),
                    SyncName::None => Sync::None,
                },
            }),
        },
    }
}

fn metrics_address(service: &Service) -> Option<Result<Address, Problem>> {
    let written = service.metrics.as_deref()?;
    Some(local_address("/metrics", written))
}

fn service_plan(service: Service, folder: &Path) -> ServicePlan {
    let metrics = metrics_address(&service).and_then(Result::ok);
    let scaling = service.scaling;
    let pipeline_id = service.pipeline_id.0.reveal().to_owned();
    let state_dir = folder.join(&service.state).join(&pipeline_id);
    ServicePlan {
        state_dir,
        pipeline_id,
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
        metrics,
    }
}
