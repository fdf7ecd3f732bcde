//! `wirefall schema`: the JSON Schema of a pipeline file, for editors.

use super::{Exit, Globals};
use crate::config;

/// Arguments of `wirefall schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print docs/configuration.md instead
    #[arg(long, hide = true)]
    markdown: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run(args: Args, _globals: &Globals) -> anyhow::Result<Exit> {
    if args.markdown {
        tell_part!("{}", config::docs());
    } else {
        tell!("{:#}", config::schema());
    }
    Ok(Exit::Done)
}
