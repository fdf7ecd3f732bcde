//! `wirefall inspect`: what a plugin says of itself, and what it asks for.

use std::path::PathBuf;

use serde_json::json;

use super::build::{component, refuse, size};
use super::{Exit, Globals};
use crate::plugin::{self, Cache, Columns, Description};

/// Arguments of `wirefall inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A component (.wasm) or the folder of its crate
    plugin: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// None; why the plugin is refused is printed and told by the exit code.
pub(super) fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let described =
        component(&args.plugin).and_then(|artifact| plugin::describe(&artifact, &Cache::user()));
    match described {
        Ok(description) if globals.json => tell!("{}", machine(&description)),
        Ok(description) => tell_part!("{}", person(&description)),
        Err(error) => return Ok(refuse(&error, globals)),
    }
    Ok(Exit::Done)
}

fn names(columns: Columns) -> Vec<&'static str> {
    let all = [
        ("keys", columns.keys),
        ("timestamps", columns.timestamps),
        ("attributes", columns.attributes),
    ];
    let read = all.into_iter().filter(|(_, read)| *read);
    std::iter::once("payloads")
        .chain(read.map(|(name, _)| name))
        .collect()
}

fn machine(description: &Description) -> serde_json::Value {
    json!({
        "name": description.id.name,
        "version": description.id.version,
        "about": description.about,
        "abi": description.abi,
        "size_bytes": description.size_bytes,
        "digest": description.id.digest,
        "columns": names(description.columns),
        "imports": description.imports,
        "config_schema": description.config_schema,
    })
}

fn person(description: &Description) -> String {
    let schema =
        serde_json::to_string_pretty(&description.config_schema).expect("a schema has a JSON form");
    let rows = [
        ("name", description.id.name.clone()),
        ("version", description.id.version.clone()),
        ("about", description.about.clone()),
        ("abi", description.abi.clone()),
        ("size", size(description.size_bytes)),
        ("digest", description.id.digest.clone()),
        ("columns", names(description.columns).join(", ")),
        ("imports", description.imports.join("\n")),
        ("config", schema),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        for (index, line) in value.lines().enumerate() {
            let name = if index == 0 { name } else { "" };
            text.push_str(&format!("{name:<9}{line}\n"));
        }
    }
    text
}
