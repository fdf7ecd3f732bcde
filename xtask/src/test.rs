//! `cargo xtask test`: everything that shows that it works, in one command.
//!
//! Gets the peers, builds the binary that the end-to-end tests run, runs all tests, and says at the
//! end what was skipped and why. With `CI=true` nothing may be skipped.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, ensure};

use crate::peers;
use crate::shell::{cargo, run};

/// Where a test that cannot run here writes one line: itself and what is missing.
const SKIPPED: &str = "skipped.txt";

/// Runs the verb.
pub(crate) fn run_verb(arguments: &[String]) -> anyhow::Result<()> {
    let missing = peers::get()?;
    ensure!(
        missing.is_empty() || !crate::is_ci(),
        "with CI set nothing may be skipped, and these are missing:\n  {}",
        missing.join("\n  ")
    );
    let skipped = peers::folder().join(SKIPPED);
    fs::write(&skipped, "").with_context(|| format!("cannot write {}", skipped.display()))?;
    let binary = crate::target().join("release/wirefall");
    // The whole workspace, so that its crates are built with the same features for both.
    run(cargo().args(["build", "--release", "--workspace"]))?;
    run(cargo()
        .args(["test", "--release", "--workspace"])
        .args(arguments)
        .env("WIREFALL_BIN", &binary)
        .env("WIREFALL_PEERS", peers::folder())
        .env("WIREFALL_SKIPPED", &skipped))?;
    report(&fs::read_to_string(&skipped)?, &missing);
    Ok(())
}

fn report(skipped: &str, missing: &[String]) {
    let skipped: BTreeSet<_> = skipped.lines().collect();
    if skipped.is_empty() && missing.is_empty() {
        eprintln!("\nall tests passed; nothing was skipped");
        return;
    }
    eprintln!("\nall tests that ran passed; skipped:");
    for line in skipped {
        eprintln!("  {line}");
    }
    for what in missing {
        eprintln!("  missing: {what}");
    }
}
