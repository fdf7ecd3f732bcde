//! The jobs: what is run, and what one run of it took.
//!
//! Owns the pipelines and taking time, CPU time and memory from the system. Compares nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::{LATE, LONG_TIMES, RECORDS};

/// One run of one job.
#[derive(Clone, Copy)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// Peak resident set; 0 for a limit, which does not tell.
    pub(super) rss_mib: f64,
}

/// A pipeline of ours, with a run for each round.
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) runs: Vec<Measured>,
    /// For each run, that of the limit beside it: what the same libraries do alone, for the same work.
    pub(super) limits: Vec<Measured>,
    file: PathBuf,
}

/// What a pipeline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) work: Work,
    pub(super) source: Source,
    pub(super) ack: Ack,
    pub(super) workers: u32,
    /// How many times the workload is read. What the kernel still holds at the end of a run counts as
    /// written and not as confirmed, a twentieth of the workload, and a connection begins with a small
    /// window: so `pong` and `written` are compared in longer runs.
    pub(super) times: u32,
}

/// What is done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Pass,
    Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdin,
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    Written,
    Pong,
}

/// Every job, those that are compared side by side.
pub(super) fn all(folder: &Path, flights: &Path, url: &str) -> anyhow::Result<Vec<Job>> {
    let mut kinds = Vec::new();
    for (work, workers) in [(Work::Pass, &[1][..]), (Work::Format, &[1, 2])] {
        for source in [Source::Stdin, Source::File] {
            for &workers in workers {
                kinds.extend([Ack::Written, Ack::Pong].map(|ack| Kind {
                    work,
                    source,
                    ack,
                    workers,
                    times: 1,
                }));
            }
        }
        kinds.extend(workers.iter().flat_map(|&workers| {
            [Ack::Written, Ack::Pong].map(|ack| Kind {
                work,
                source: Source::File,
                ack,
                workers,
                times: LONG_TIMES,
            })
        }));
    }
    let job = |(index, kind): (usize, Kind)| {
        let file = folder.join(format!("job-{index}.yaml"));
        fs::write(&file, kind.pipeline(flights, url))
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Job {
            kind,
            runs: Vec::new(),
            limits: Vec::new(),
            file,
        })
    };
    kinds.into_iter().enumerate().map(job).collect()
}

impl Kind {
    pub(super) fn name(self) -> String {
        let source = format!("{:?}", self.source).to_lowercase();
        let ack = format!("{:?}", self.ack).to_lowercase();
        let times = match self.times {
            1 => String::new(),
            times => format!(" {times} times"),
        };
        match self.work {
            Work::Pass => format!("pass-through, {source}{times}, {ack}"),
            Work::Format => {
                let workers = self.workers;
                format!("filter+format, {source}{times}, {ack}, workers {workers}")
            }
        }
    }

    /// The pipeline file.
    fn pipeline(self, flights: &Path, url: &str) -> String {
        let Self {
            work,
            source,
            ack,
            workers,
            times,
        } = self;
        let source = match source {
            Source::Stdin => "source:\n  driver: stdin\n".to_owned(),
            Source::File => format!(
                "source:\n  driver: file\n  config: {{ path: {}, resume: false, repeat: {times} }}\n",
                flights.display()
            ),
        };
        let processors = match work {
            Work::Pass => String::new(),
            Work::Format => format!(
                "processors:\n  - driver: wasm\n    config:\n      plugin: {}\n      config: {{ min_delay: 15 }}\n",
                crate::root().join("plugins/flight-delays").display()
            ),
        };
        let ack = format!("{ack:?}").to_lowercase();
        format!(
            "service:\n  pipeline_id: bench\n  scaling: {{ min: {workers}, max: {workers} }}\n{source}{processors}\
             sink:\n  driver: websocket\n  config: {{ url: \"{url}\", ack: {ack}, proxy: none }}\n"
        )
    }
}

impl Job {
    /// Whether it reads the workload more than once.
    pub(super) fn is_long(&self) -> bool {
        self.kind.times > 1
    }

    /// Runs the job once more, and its limit before it, or after it; a long one without.
    pub(super) fn run(
        &mut self,
        flights: &Path,
        url: &str,
        limit_after: bool,
    ) -> anyhow::Result<()> {
        if self.is_long() {
            let measured = self.run_pipeline(flights);
            self.runs.push(measured.with_context(|| self.kind.name())?);
            return Ok(());
        }
        for limit in [!limit_after, limit_after] {
            let measured = match limit {
                true => run_limit(self.kind.work, flights, url),
                false => self.run_pipeline(flights),
            };
            let measured = measured.with_context(|| self.kind.name())?;
            match limit {
                true => self.limits.push(measured),
                false => self.runs.push(measured),
            }
        }
        Ok(())
    }

    fn run_pipeline(&self, flights: &Path) -> anyhow::Result<Measured> {
        let mut wirefall = super::wirefall();
        wirefall
            .args(["run", "--json", "--log", "error"])
            .arg(&self.file);
        if self.kind.source == Source::Stdin {
            wirefall.stdin(fs::File::open(flights)?);
        }
        let (measured, words) = whole_process(&mut wirefall)?;
        let last = words.lines().last().unwrap_or_default();
        let told: serde_json::Value =
            serde_json::from_str(last).with_context(|| format!("it says `{words}`"))?;
        let expected = match self.kind.work {
            Work::Pass => RECORDS,
            Work::Format => LATE,
        };
        let delivered = told["account"]["delivered"].as_u64();
        ensure!(
            delivered == Some(expected * u64::from(self.kind.times)),
            "it says {last}"
        );
        Ok(measured)
    }
}

fn run_limit(work: Work, flights: &Path, url: &str) -> anyhow::Result<Measured> {
    let out = super::wirefall_example("limits")
        .arg(match work {
            Work::Pass => "send",
            Work::Format => "format",
        })
        .args([flights.as_os_str(), url.as_ref()])
        .output()?;
    let words = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "it says `{words}`");
    let told: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let number = |key: &str| told[key].as_f64().with_context(|| format!("no {key}"));
    Ok(Measured {
        seconds: number("seconds")?,
        cpu_seconds: number("cpu_seconds")?,
        rss_mib: 0.0,
    })
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
        rss_mib: usage.ru_maxrss as f64 / 1024.0,
    };
    ensure!(status == 0, "it ended with status {status}: {words}");
    Ok((measured, words))
}
