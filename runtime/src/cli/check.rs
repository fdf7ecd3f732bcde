//! `wirefall check`: everything wrong with a pipeline file at once, or what it would do.
//!
//! Owns reading the file, the process's environment and the printing of diagnostics, which `run`
//! shares. Opens nothing but the files that the pipeline names, and dials only with `--connect`.

use std::cell::Cell;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{Exit, Globals};
use crate::config::{self, Diagnostic, Environment, FILE_BYTES_MAX, Plan, PluginFacts, Severity};
use crate::driver::ProbeStep;
use crate::plugin::{Cache, PluginError, PluginErrorKind, describe, resolve, try_config};

/// Arguments of `wirefall check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline file
    pub file: PathBuf,
    /// Dial or open what the sink and the source need, and tell what happens at each layer
    #[arg(long)]
    pub connect: bool,
}

/// Longest file that `${file:PATH}` reads: a secret, not a data file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Runs the verb.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let told: &mut dyn Write = if globals.json {
        &mut std::io::stdout()
    } else {
        &mut std::io::stderr()
    };
    let plan = match load(&args.file, globals, told) {
        Ok(plan) => plan,
        Err(exit) => return Ok(exit),
    };
    let probed = if args.connect {
        probe(&plan)?
    } else {
        Probed::default()
    };
    if globals.json {
        print_json(&plan, &probed);
    } else {
        tell!("{} is right", plan.file.display());
        tell_part!("{}", summary(&plan));
        for (whose, step) in probed.steps() {
            let mark = if step.ok { "ok    " } else { "failed" };
            tell!("  {mark} {whose}{}: {}", step.layer, step.detail);
        }
    }
    if probed.steps().all(|(_, step)| step.ok) {
        Ok(Exit::Done)
    } else {
        Ok(Exit::Environment)
    }
}

/// Reads and checks a pipeline file and writes what there is to say of it to `told`, with `--json` an
/// object a line.
///
/// # Errors
/// How the process ends: the file is wrong, or the machine is (no cargo to build a plugin with).
pub(super) fn load(file: &Path, globals: &Globals, told: &mut dyn Write) -> Result<Plan, Exit> {
    let text = read(file, globals, told)?;
    let environment_failed = Cell::new(false);
    let plugins = |path: &str| {
        plugin_facts(path).map_err(|error| {
            if error.kind == PluginErrorKind::Environment {
                environment_failed.set(true);
            }
            error.to_string()
        })
    };
    match config::load(file, &text, &environment(), &plugins) {
        Ok((plan, warnings)) => {
            print(&warnings, globals, told);
            Ok(plan)
        }
        Err(diagnostics) => {
            print(&diagnostics, globals, told);
            let errors = diagnostics
                .iter()
                .filter(|one| one.severity == Severity::Error);
            // The machine is at fault where it is all that is wrong.
            if environment_failed.get() && errors.count() == 1 {
                Err(Exit::Environment)
            } else {
                Err(Exit::Wrong)
            }
        }
    }
}

/// Reads a pipeline file.
///
/// # Errors
/// It cannot be read, which is told.
pub(super) fn read(file: &Path, globals: &Globals, told: &mut dyn Write) -> Result<Vec<u8>, Exit> {
    read_bounded(file, FILE_BYTES_MAX as u64 + 1).map_err(|error| {
        let problem = Diagnostic::of_file(file, format!("cannot read the file: {error}"));
        print(&[problem], globals, told);
        Exit::Wrong
    })
}

/// The environment of this process, and files read with a bound.
pub(super) fn environment() -> Environment {
    Environment {
        variable: Arc::new(|name| std::env::var(name).ok()),
        file: Arc::new(|path| {
            let bytes =
                read_bounded(path, SECRET_BYTES_MAX + 1).map_err(|error| error.to_string())?;
            if bytes.len() as u64 > SECRET_BYTES_MAX {
                return Err("it is larger than 64KiB".to_owned());
            }
            String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
        }),
    }
}

fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(bytes_max)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the plugin host says of the plugin at `path`; a crate folder is built first.
pub(super) fn plugin_facts(path: &str) -> Result<PluginFacts, PluginError> {
    let cache = Cache::user();
    let artifact = resolve(Path::new(path), &mut |line| say!("{line}"))?;
    let description = describe(&artifact, &cache)?;
    let component = artifact.clone();
    Ok(PluginFacts {
        artifact,
        id: description.id,
        config_schema: description.config_schema,
        try_config: Arc::new(move |config, limits| {
            try_config(&component, config, limits, &cache).map_err(|error| error.message)
        }),
    })
}

pub(super) fn print(diagnostics: &[Diagnostic], globals: &Globals, told: &mut dyn Write) {
    let text = if globals.json {
        let lines = diagnostics.iter().map(|one| format!("{}\n", json!(one)));
        lines.collect()
    } else {
        config::render_all(diagnostics, globals.color_stderr())
    };
    // A closed pipe is the reader's choice; the exit code still tells.
    let _ = told.write_all(text.as_bytes());
}

/// What was seen of both ends.
#[derive(Default)]
struct Probed {
    source: Vec<ProbeStep>,
    sink: Vec<ProbeStep>,
}

impl Probed {
    /// All of it, each with the words before its layer.
    fn steps(&self) -> impl Iterator<Item = (&'static str, &ProbeStep)> {
        let source = self.source.iter().map(|step| ("source, ", step));
        source.chain(self.sink.iter().map(|step| ("", step)))
    }
}

fn probe(plan: &Plan) -> anyhow::Result<Probed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        Probed {
            source: plan.source.probe().await,
            sink: plan.sink.probe().await,
        }
    }))
}

/// What the pipeline is and promises, for a person.
pub(super) fn summary(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        text.push_str(&format!("  {name:<11}{value}\n"));
    };
    line("pipeline", &plan.service.pipeline_id);
    line("source", &plan.source.describe());
    for id in &plan.plugins {
        line(
            "processor",
            &format!("{} {} {}", id.name, id.version, id.digest),
        );
    }
    line("sink", &plan.sink.describe());
    if let Some(failover) = &plan.failover {
        line("failover", &failover.describe());
    }
    for sentence in plan.guarantees() {
        line("delivery", &sentence);
    }
    text
}

fn print_json(plan: &Plan, probed: &Probed) {
    let processors: Vec<_> = plan
        .plugins
        .iter()
        .map(|id| json!({"name": id.name, "version": id.version, "digest": id.digest}))
        .collect();
    tell!(
        "{}",
        json!({
            "file": plan.file.display().to_string(),
            "pipeline": plan.service.pipeline_id,
            "source": plan.source.describe(),
            "processors": processors,
            "sink": plan.sink.describe(),
            "failover": plan.failover.as_ref().map(|failover| failover.describe()),
            "delivery": plan.guarantees(),
            "connect": probed.sink,
            "connect_source": probed.source,
        })
    );
}
