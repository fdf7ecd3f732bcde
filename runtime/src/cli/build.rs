//! `wirefall build`: a plugin crate to a component, and how every verb shows it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Exit, Globals};
use crate::plugin::{self, Cache, PluginError, PluginErrorKind};
use crate::units::ByteSize;

/// Arguments of `wirefall build`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The plugin's crate
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// None; what keeps the crate from being built is printed and told by the exit code.
pub(super) fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let built = component(&args.dir).and_then(|artifact| {
        let description = plugin::describe(&artifact, &Cache::user())?;
        Ok((artifact, description))
    });
    let (artifact, description) = match built {
        Ok(built) => built,
        Err(error) => return Ok(refuse(&error, globals)),
    };
    let id = &description.id;
    if globals.json {
        let line = json!({
            "artifact": artifact,
            "name": id.name,
            "version": id.version,
            "digest": id.digest,
            "size_bytes": description.size_bytes,
        });
        tell!("{line}");
    } else {
        tell!("{}", artifact.display());
        let size = size(description.size_bytes);
        say!("{} {}, {size}, {}", id.name, id.version, id.digest);
    }
    Ok(Exit::Done)
}

/// The component at `path`; a crate folder is built, with a spinner where a person looks and cargo's
/// own lines where none does.
pub(super) fn component(path: &Path) -> Result<PathBuf, PluginError> {
    if !std::io::stderr().is_terminal() {
        return plugin::resolve(path, &mut |line| {
            if !line.is_empty() {
                say!("{line}");
            }
        });
    }
    let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg} {elapsed}")
        .expect("the template is right");
    let spinner = ProgressBar::new_spinner().with_style(style);
    spinner.set_prefix(format!("building {}", path.display()));
    spinner.enable_steady_tick(Duration::from_millis(100));
    let built = plugin::resolve(path, &mut |line| spinner.set_message(line.to_owned()));
    spinner.finish_and_clear();
    built
}

/// Prints why a plugin cannot be used; whose fault it is makes the exit code.
pub(super) fn refuse(error: &PluginError, globals: &Globals) -> Exit {
    say_error!(globals, "{error}");
    exit_of(error)
}

/// Whose fault it is that a plugin cannot be used.
pub(super) fn exit_of(error: &PluginError) -> Exit {
    match error.kind {
        PluginErrorKind::Wrong => Exit::Wrong,
        PluginErrorKind::Environment => Exit::Environment,
    }
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => ByteSize(bytes).to_string(),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0),
    }
}
