//! `wirefall check`.

use super::{Exit, Globals};

/// Arguments of `wirefall check`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run(_args: Args, _globals: &Globals) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
