//! The project's own chores, a file a verb: `cargo xtask test`, `cargo xtask bench`.
//!
//! Owns what is done around the tests and the measurements, so that no one has to remember it. Never
//! part of what is shipped.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod bench;
mod peers;
mod shell;
mod test;

const USAGE: &str = "\
usage: cargo xtask VERB

  test [ARGS]   get the peers that the wider tests need, build, and run every test;
                ARGS go to `cargo test`
  bench [fanout]
                measure, beside what the same libraries do alone: one way out, or many
                subscribers; --quick does one round
  peers         only get the peers
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match verb.as_str() {
        "test" => test::run_verb(&rest),
        "bench" => bench::run_verb(&rest),
        "peers" => peers::run_verb(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository")
}

/// Where builds, and everything that is fetched for tests, go.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Whether nothing may be skipped.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false" && ci != "0")
}
