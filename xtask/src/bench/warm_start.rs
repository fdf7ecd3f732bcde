//! How long a start takes when everything is built and compiled: from the process to its first record
//! at the peer.
//!
//! Owns its pipeline: the input and the plugin of `examples/flights`, pushed. Never part of the rounds,
//! whose figures are of whole runs.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::receiver::Printing;

/// Starts a round: each takes a tenth of a second.
const STARTS_PER_ROUND: usize = 3;

/// Measures some starts; the first, which builds and compiles, is not among them.
pub(super) fn measure(folder: &Path, rounds: usize) -> anyhow::Result<Vec<Duration>> {
    start(folder)?;
    (0..rounds * STARTS_PER_ROUND)
        .map(|_| start(folder))
        .collect()
}

fn start(folder: &Path) -> anyhow::Result<Duration> {
    let mut receiver = Printing::start()?;
    let root = crate::root();
    let file = folder.join("start.yaml");
    let pipeline = format!(
        "service:\n  pipeline_id: start\n\
         source:\n  driver: file\n  config: {{ path: {}, resume: false }}\n\
         processors:\n  - driver: wasm\n    config:\n      plugin: {}\n      config: {{ min_delay: 15 }}\n\
         sink:\n  driver: websocket\n  config: {{ url: \"{}\", proxy: none }}\n",
        root.join("examples/flights/flights.ndjson").display(),
        root.join("plugins/flight-delays").display(),
        receiver.url(),
    );
    fs::write(&file, pipeline).with_context(|| format!("cannot write {}", file.display()))?;
    let mut run = super::wirefall();
    run.args(["run", "--quiet", "--log", "error"]).arg(&file);
    let started = Instant::now();
    let mut child = run.stdout(Stdio::null()).spawn()?;
    let record = receiver.record();
    let taken = started.elapsed();
    let status = child.wait()?;
    ensure!(status.success(), "the start ended with {status}");
    ensure!(
        record?.starts_with("{\"flight\":"),
        "no flight was received"
    );
    Ok(taken)
}
