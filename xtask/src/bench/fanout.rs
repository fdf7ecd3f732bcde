//! `cargo xtask bench fanout`: one stream to many subscribers, beside a writer that does nothing else.
//!
//! Owns the scenes and their targets. The other ends, subscribers and writer, are the runtime's example
//! `fanout`; both sides share the machine. Measures whole processes from outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::report::{environment, held};
use super::{median, wirefall, wirefall_example};

/// A row, and the frame that carries it.
const ROW_BYTES: usize = 300;
const FRAME_BYTES: usize = 4 + ROW_BYTES;

/// At saturation: deliveries a second, or this part of the limit beside it.
const DELIVERIES_MIN: f64 = 4e6;
const LIMIT_PART_MIN: f64 = 0.4;
/// At a steady rate.
const P99_MS_MAX: f64 = 50.0;
/// Half of the subscribers stalled: the speed of the others, and memory beyond.
const STALLED_SPEED_MIN: f64 = 0.9;
const STALLED_MIB_MAX: f64 = 64.0;
const IDLE_KIB_MAX: f64 = 10.0;
const CONNECT_SECONDS_MAX: f64 = 10.0;
/// Replay to a late subscriber.
const REPLAY_MEMORY_MIN: f64 = 1e6;
const REPLAY_DISK_MIN: f64 = 5e5;

/// How much is measured.
struct Size {
    rounds: usize,
    subscribers: usize,
    rows: usize,
    steady_seconds: usize,
    idle: usize,
    replayed: usize,
}

const WHOLE: Size = Size {
    rounds: 5,
    subscribers: 1000,
    rows: 20_000,
    steady_seconds: 10,
    idle: 10_000,
    replayed: 1_000_000,
};

/// To see that it works.
const QUICK: Size = Size {
    rounds: 1,
    subscribers: 100,
    rows: 2000,
    steady_seconds: 1,
    idle: 500,
    replayed: 20_000,
};

/// Runs every scene and prints its table.
pub(super) fn measure(folder: &Path, quick: bool) -> anyhow::Result<()> {
    let size = if quick { QUICK } else { WHOLE };
    environment();
    println!(
        "workload: rows of {ROW_BYTES} bytes, a frame each, in plaintext but for one scene; {} rounds, medians\n",
        size.rounds
    );
    println!("| scene | figure | target in this run |");
    println!("| --- | ---: | --- |");
    saturate(folder, &size)?;
    steady(folder, &size)?;
    idle(folder, &size)?;
    for (journal, min) in [("memory", REPLAY_MEMORY_MIN), ("disk", REPLAY_DISK_MIN)] {
        replay(folder, &size, journal, min)?;
    }
    Ok(())
}

fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// A row that ends with the time when it was made.
fn row() -> Vec<u8> {
    let time = format!("\",\"at\":\"{:019}\"}}", now_nanos());
    let mut row = b"{\"filler\":\"".to_vec();
    row.resize(ROW_BYTES - time.len(), b'x');
    row.extend_from_slice(time.as_bytes());
    row.push(b'\n');
    row
}

/// A process of ours that answers in lines of JSON.
struct Peer {
    child: Child,
    lines: BufReader<ChildStdout>,
    input: Option<ChildStdin>,
}

impl Peer {
    fn start(arguments: &[String]) -> anyhow::Result<Self> {
        let mut command = wirefall_example("fanout");
        command.args(arguments).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        Ok(Self {
            lines: BufReader::new(child.stdout.take().context("it is piped")?),
            input: child.stdin.take(),
            child,
        })
    }

    /// Subscribers that read so many rows each; some more that read nothing. Connected when it returns.
    fn readers(
        job: &str,
        url: &str,
        [live, stalled]: [usize; 2],
        rows: usize,
    ) -> anyhow::Result<(Self, f64)> {
        let bytes = rows * FRAME_BYTES;
        let numbers = [live, stalled, bytes].map(|number| number.to_string());
        let words = [job, url].map(ToOwned::to_owned);
        let mut readers = Self::start(&[&words[..], &numbers[..]].concat())?;
        let seconds = readers.told("connect_seconds")?;
        Ok((readers, seconds.as_f64().context("seconds")?))
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("a peer says `{line}`"))
    }

    fn told(&mut self, key: &str) -> anyhow::Result<Value> {
        Ok(self.line()?[key].clone())
    }

    fn go(&mut self) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("it is piped")?;
        Ok(input.write_all(b"go\n")?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pipeline that publishes what it is fed.
struct Publisher {
    child: Child,
    input: ChildStdin,
    url: String,
    _words: BufReader<std::process::ChildStderr>,
}

impl Publisher {
    fn start(folder: &Path, journal: &str) -> anyhow::Result<Self> {
        Self::start_with(folder, journal, "")
    }

    /// The same with these keys of the sink.
    fn start_with(folder: &Path, journal: &str, keys: &str) -> anyhow::Result<Self> {
        let file = folder.join("fanout.yaml");
        let pipeline = format!(
            "service:\n  pipeline_id: fanout\n  state: fanout\n\
             source:\n  driver: stdin\n\
             sink:\n  driver: websocket\n  config: {{ listen: \"127.0.0.1:0\", subscribers_max: 12000{keys} }}\n\
             journal: {journal}\n"
        );
        fs::write(&file, pipeline).with_context(|| format!("cannot write {}", file.display()))?;
        let mut run = wirefall();
        run.args(["run", "--log", "error"]).arg(&file);
        run.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = run.stderr(Stdio::piped()).spawn()?;
        let mut words = BufReader::new(child.stderr.take().context("it is piped")?);
        let mut line = String::new();
        while !line.contains("stream  ") {
            line.clear();
            ensure!(words.read_line(&mut line)? > 0, "it does not publish");
        }
        let url = line.split_whitespace().next_back();
        Ok(Self {
            url: url.context("an address")?.to_owned(),
            input: child.stdin.take().context("it is piped")?,
            child,
            _words: words,
        })
    }

    /// A line of its `/proc/PID/status` in KiB.
    fn memory_kib(&self, name: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.context("a number")?.parse().context("a number")
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(scene: &str, figure: &str, target: &str) {
    println!("| {scene} | {figure} | {target} |");
}

/// Deliveries a second, and the peak of our memory in MiB. The rows go out four times, and the last time
/// counts: then what the kernel takes for those that read nothing is full.
fn publish(folder: &Path, counts: [usize; 2], rows: usize) -> anyhow::Result<(f64, f64)> {
    publish_with(folder, counts, rows, "")
}

/// The same with these keys of the sink.
fn publish_with(
    folder: &Path,
    counts: [usize; 2],
    rows: usize,
    keys: &str,
) -> anyhow::Result<(f64, f64)> {
    let mut publisher = Publisher::start_with(folder, "{ bytes: 64MiB }", keys)?;
    let (mut readers, _) = Peer::readers("read", &publisher.url, counts, rows)?;
    let text = row().repeat(rows);
    let mut seconds = 0.0;
    for _ in 0..4 {
        let started_at = now_nanos();
        publisher.input.write_all(&text)?;
        let ended_at = readers.told("ended_at")?.as_u64().context("a time")?;
        seconds = (ended_at - started_at) as f64 / 1e9;
    }
    let peak_mib = publisher.memory_kib("VmHWM:")? / 1024.0;
    Ok(((counts[0] * rows) as f64 / seconds, peak_mib))
}

/// What a writer of ready frames does, so many bytes a write.
fn limit(subscribers: usize, rows: usize, piece: usize) -> anyhow::Result<f64> {
    let numbers = [subscribers, rows * FRAME_BYTES, piece].map(|number| number.to_string());
    let mut writer = Peer::start(&[&["write".to_owned()][..], &numbers[..]].concat())?;
    let url = writer.told("url")?;
    let url = url.as_str().context("an address")?;
    let (mut readers, _) = Peer::readers("read", url, [subscribers, 0], rows)?;
    writer.go()?;
    let started_at = writer.told("started_at")?.as_u64().context("a time")?;
    let ended_at = readers.told("ended_at")?.as_u64().context("a time")?;
    let seconds = (ended_at - started_at) as f64 / 1e9;
    Ok((subscribers * rows) as f64 / seconds)
}

/// Keys of a sink that shows the certificate of the tests, which the readers trust.
fn tls() -> String {
    let peers = crate::root().join("tests/peers");
    let [cert, key] = ["localhost.pem", "localhost.key"].map(|name| peers.join(name));
    format!(
        ", tls: {{ cert: {}, key: {} }}",
        cert.display(),
        key.display()
    )
}

fn saturate(folder: &Path, size: &Size) -> anyhow::Result<()> {
    let Size {
        subscribers, rows, ..
    } = *size;
    let half = subscribers / 2;
    let mut runs = Vec::new();
    for round in 0..size.rounds {
        eprintln!("round {} of {}", round + 1, size.rounds);
        let large = limit(subscribers, rows, 64 << 10)?;
        let small = limit(subscribers, rows, 4 << 10)?;
        let (ours, _) = publish(folder, [subscribers, 0], rows)?;
        let (alone, alone_mib) = publish(folder, [half, 0], rows)?;
        let (beside, beside_mib) = publish(folder, [half, half], rows)?;
        // The last of a round, so that what is in plaintext is measured as ever.
        let (encrypted, _) = publish_with(folder, [subscribers, 0], rows, &tls())?;
        runs.push([
            large,
            small,
            ours,
            ours / large,
            beside / alone,
            beside_mib - alone_mib,
            encrypted,
            encrypted / ours,
        ]);
    }
    let figure = |index: usize| median(runs.iter().map(|run| run[index]));
    let deliveries = |index: usize| format!("{:.0} deliveries/s", figure(index));
    let all = format!("{rows} rows to {subscribers} subscribers");
    say(
        &format!("limit: {all}, 64 KiB a write"),
        &deliveries(0),
        "–",
    );
    say(&format!("limit: {all}, 4 KiB a write"), &deliveries(1), "–");
    let met = figure(2) >= DELIVERIES_MIN || figure(3) >= LIMIT_PART_MIN;
    say(
        &all,
        &format!("{}, {:.2} of the first limit", deliveries(2), figure(3)),
        &held(format!("≥ {DELIVERIES_MIN} or ≥ {LIMIT_PART_MIN}"), met),
    );
    say(
        &format!("{all}, over TLS, which both ends pay for"),
        &format!("{}, {:.2} of plaintext", deliveries(6), figure(7)),
        "–",
    );
    let met = figure(4) >= STALLED_SPEED_MIN && figure(5) <= STALLED_MIB_MAX;
    say(
        &format!("{half} subscribers, and {half} more that read nothing"),
        &format!(
            "{:.2} of the speed without them, {:+.0} MiB",
            figure(4),
            figure(5)
        ),
        &held(
            format!("≥ {STALLED_SPEED_MIN}, ≤ {STALLED_MIB_MAX} MiB"),
            met,
        ),
    );
    Ok(())
}

/// A thousand rows a second, from standard input to receipt.
fn steady(folder: &Path, size: &Size) -> anyhow::Result<()> {
    const ROWS_PER_SECOND: usize = 1000;
    let rows = size.steady_seconds * ROWS_PER_SECOND;
    let mut publisher = Publisher::start(folder, "{ bytes: 64MiB }")?;
    let counts = [size.subscribers, 0];
    let (mut readers, _) = Peer::readers("time", &publisher.url, counts, rows)?;
    let started = Instant::now();
    for index in 0..rows {
        let due = started + Duration::from_secs_f64(index as f64 / ROWS_PER_SECOND as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        publisher.input.write_all(&row())?;
    }
    let told = readers.line()?;
    let ms = |key: &str| told[key].as_f64().unwrap_or(f64::INFINITY);
    say(
        &format!(
            "{ROWS_PER_SECOND} rows/s to {} subscribers, from standard input to receipt",
            size.subscribers
        ),
        &format!(
            "p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
            ms("p50_ms"),
            ms("p99_ms"),
            ms("max_ms")
        ),
        &held(format!("p99 ≤ {P99_MS_MAX} ms"), ms("p99_ms") <= P99_MS_MAX),
    );
    Ok(())
}

fn idle(folder: &Path, size: &Size) -> anyhow::Result<()> {
    let publisher = Publisher::start(folder, "{ bytes: 8MiB }")?;
    // What the first few bring once is not what each costs.
    let (_first, _) = Peer::readers("read", &publisher.url, [64, 0], 0)?;
    let before = publisher.memory_kib("VmRSS:")?;
    let (_readers, seconds) = Peer::readers("read", &publisher.url, [size.idle, 0], 0)?;
    let each = (publisher.memory_kib("VmRSS:")? - before) / size.idle as f64;
    let met = each <= IDLE_KIB_MAX && seconds <= CONNECT_SECONDS_MAX;
    say(
        &format!("{} subscribers connect and wait", size.idle),
        &format!("{seconds:.1} s, {each:.1} KiB each"),
        &held(
            format!("≤ {CONNECT_SECONDS_MAX} s, ≤ {IDLE_KIB_MAX} KiB"),
            met,
        ),
    );
    Ok(())
}

/// A subscriber that comes late and begins with the oldest.
fn replay(folder: &Path, size: &Size, journal: &str, min: f64) -> anyhow::Result<()> {
    let state = folder.join("fanout");
    if state.exists() {
        fs::remove_dir_all(&state)?;
    }
    let bytes = match journal {
        "memory" => "{ driver: memory, bytes: 1GiB }",
        _ => "{ driver: disk, retention: { bytes: 1GiB } }",
    };
    let mut publisher = Publisher::start(folder, bytes)?;
    // One who is there from the beginning says when all has been published.
    let (mut readers, _) = Peer::readers("read", &publisher.url, [1, 0], size.replayed)?;
    let text = row().repeat(1000);
    for _ in 0..size.replayed / 1000 {
        publisher.input.write_all(&text)?;
    }
    readers.told("ended_at")?;
    let mut seconds = Vec::new();
    for _ in 0..size.rounds {
        let mut late = wirefall();
        late.args(["subscribe", &publisher.url, "--from", "earliest", "--count"]);
        late.args(["--limit", &size.replayed.to_string()]);
        let started = Instant::now();
        let out = late.stderr(Stdio::inherit()).output()?;
        ensure!(out.status.success(), "subscribe ended with {}", out.status);
        seconds.push(started.elapsed().as_secs_f64());
    }
    let rate = size.replayed as f64 / median(seconds);
    say(
        &format!(
            "{} rows to one that comes late, from {journal}",
            size.replayed
        ),
        &format!("{rate:.0} rows/s"),
        &held(format!("≥ {min}"), rate >= min),
    );
    Ok(())
}
