//! `wirefall test`: a plugin's component against its golden files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use wirefall_sdk::golden::{self, Frame, Run};

use super::build::{component, exit_of, refuse};
use super::{Exit, Globals};
use crate::plugin::{Cache, ChainPlan, Host, Limits, OnError, PluginError, ProcessorPlan};
use crate::record::{Batch, Column, Partition, Records};

/// Arguments of `wirefall test`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The plugin's crate; its cases are in tests/golden
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The component to test (.wasm or a crate's folder), if it is not the crate itself
    #[arg(long)]
    plugin: Option<PathBuf>,
    /// Write what the plugin does now as what is expected
    #[arg(long)]
    bless: bool,
}

/// A file of a case as it is and as it should be.
struct Compared {
    path: PathBuf,
    expected: String,
    actual: String,
}

/// Runs the verb.
///
/// # Errors
/// Golden files that cannot be read or written.
pub(super) fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let folder = args.dir.join("tests/golden");
    let cases = golden::cases(&folder);
    if cases.is_empty() {
        say_error!(
            globals,
            "no case in {}: put records into NAME.ndjson, its config into NAME.config.json, \
             and run `wirefall test --bless`",
            folder.display()
        );
        return Ok(Exit::Wrong);
    }
    let prepared = component(args.plugin.as_ref().unwrap_or(&args.dir)).and_then(|artifact| {
        let host = Host::new(Cache::user())?;
        Ok((artifact, host))
    });
    let (artifact, host) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(refuse(&error, globals)),
    };
    let mut differing = 0;
    for case in &cases {
        let run = match run_case(&host, &artifact, &folder, case)? {
            Ok(run) => run,
            Err(error) => {
                say_error!(globals, "{case} cannot run: {error}");
                return Ok(exit_of(&error));
            }
        };
        let differences = compare(&folder, case, &run)?;
        if args.bless {
            bless(&differences)?;
        }
        differing += usize::from(!args.bless && !differences.is_empty());
        report(case, &differences, args.bless, globals);
    }
    if !globals.json {
        say!("{} of {} cases pass", cases.len() - differing, cases.len());
    }
    Ok(if differing == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Formats the records of a case with the real component.
fn run_case(
    host: &Host,
    artifact: &Path,
    folder: &Path,
    case: &str,
) -> anyhow::Result<Result<Run, PluginError>> {
    let file = |suffix: &str| folder.join(format!("{case}.{suffix}"));
    let config = file("config.json");
    let config: Value = if config.exists() {
        let text = read(&config)?;
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", config.display()))?
    } else {
        json!({})
    };
    let input = file("ndjson");
    let records = golden::Input::read(&read(&input)?)
        .with_context(|| format!("{} is not in the golden form", input.display()))?;
    let processor = ProcessorPlan {
        artifact: artifact.to_path_buf(),
        config,
        on_error: OnError::Failover,
        limits: Limits::default(),
        tolerance: None,
    };
    let chain = ChainPlan::load(host, &[processor]).and_then(|plan| plan.start());
    Ok(chain.map(|mut chain| {
        let transformed = chain.transform(&batch(records));
        let outputs = &transformed.outputs;
        let frames = outputs
            .sources
            .iter()
            .enumerate()
            .map(|(index, source)| Frame {
                source: *source as usize,
                key: (!outputs.keys.is_empty()).then(|| outputs.keys.get(index).to_vec()),
                payload: outputs.payloads.get(index).to_vec(),
            });
        let failures = transformed.failures.iter();
        Run {
            outputs: frames.collect(),
            rejected: failures
                .map(|failure| (failure.input as usize, failure.reason.clone()))
                .collect(),
        }
    }))
}

fn batch(input: golden::Input) -> Batch {
    let records = Records {
        payloads: Arc::new(Column {
            bytes: input.payloads,
            ends: input.payload_ends,
        }),
        keys: Column {
            bytes: input.keys,
            ends: input.key_ends,
        },
        timestamps: input.timestamps,
        attributes: Column {
            bytes: input.attributes,
            ends: input.attribute_ends,
        },
    };
    Batch {
        number: 0,
        partition: Partition::new("golden"),
        start: 0,
        positions: (1..=records.len() as u64).collect(),
        records,
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The files of a case that differ.
fn compare(folder: &Path, case: &str, run: &Run) -> anyhow::Result<Vec<Compared>> {
    let files = [
        ("expected.ndjson", golden::expected(run)),
        ("rejected.ndjson", golden::rejected(run)),
    ];
    let mut differences = Vec::new();
    for (suffix, actual) in files {
        let path = folder.join(format!("{case}.{suffix}"));
        let expected = if path.exists() {
            read(&path)?
        } else {
            String::new()
        };
        if expected != actual {
            differences.push(Compared {
                path,
                expected,
                actual,
            });
        }
    }
    Ok(differences)
}

/// Makes what is what should be; a file that should be empty goes.
fn bless(differences: &[Compared]) -> anyhow::Result<()> {
    for compared in differences {
        let path = &compared.path;
        let written = match compared.actual.is_empty() {
            true => fs::remove_file(path),
            false => fs::write(path, &compared.actual),
        };
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn report(case: &str, differences: &[Compared], blessed: bool, globals: &Globals) {
    let verdict = match (differences.is_empty(), blessed) {
        (true, _) => "ok",
        (false, true) => "blessed",
        (false, false) => "differs",
    };
    let diffs = differences.iter();
    if globals.json {
        let diffs: Vec<String> = diffs.map(|compared| diff(compared, false)).collect();
        tell!(
            "{}",
            json!({"case": case, "verdict": verdict, "diffs": diffs})
        );
        return;
    }
    tell!("{case}: {verdict}");
    if !blessed {
        diffs.for_each(|compared| tell_part!("{}", diff(compared, globals.color_stdout())));
    }
}

/// The difference as lines: `-` was expected, `+` is what came.
fn diff(compared: &Compared, color: bool) -> String {
    let diff = TextDiff::from_lines(&compared.expected, &compared.actual);
    let mut text = format!("  {}\n", compared.path.display());
    for group in diff.grouped_ops(2) {
        for change in group
            .iter()
            .flat_map(|operation| diff.iter_changes(operation))
        {
            let (sign, paint) = match change.tag() {
                ChangeTag::Delete => ('-', "31"),
                ChangeTag::Insert => ('+', "32"),
                ChangeTag::Equal => (' ', "2"),
            };
            let line = change.value().trim_end_matches('\n');
            text.push_str(&match color {
                true => format!("  \x1b[{paint}m{sign}{line}\x1b[0m\n"),
                false => format!("  {sign}{line}\n"),
            });
        }
    }
    text
}
