//! The `file` source: lines of one file or of all that match a glob, plain or compressed.
//!
//! Owns the order of the files, the pace, and following a file that grows. Each file is a partition
//! whose positions are byte offsets of the plain (unpacked) text.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::lines::Lines;
use super::position_file::{PositionFile, Positions};
use super::{
    Committer, Forgetful, Oddities, Reader, Source, SourceContext, SourceError, SourcePlan,
};
use crate::checkpoint::Checkpoint;
use crate::driver::{self, BoxFuture, Driver, Facts, Problem};
use crate::record::{Batch, Partition};
use crate::units::ByteSize;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SourcePlan>> = Driver {
    name: "file",
    about: "lines of a file or of files that match a glob, also .gz and .zst",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Bytes read at once.
const BLOCK_BYTES: usize = 256 << 10;

/// How often a followed file is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// How many first bytes tell whether a file is still the same.
const IDENTITY_BYTES: u64 = 1024;

/// Config of the `file` source.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// A path or a glob, relative to the pipeline file. Files are read in the order of their names;
    /// `.gz` and `.zst` are unpacked.
    path: String,
    /// Most records a second; unset: as fast as they go out.
    #[serde(default)]
    #[schemars(range(min = 0.001))]
    rate: Option<f64>,
    /// Start again at the end: `true` for ever, or how many times the input is read in all.
    #[serde(default)]
    repeat: Repeat,
    /// At the end of the last file wait for more, as `tail -f` does.
    #[serde(default)]
    follow: bool,
    /// Go on where the last run had everything confirmed. The default is `true`, and `false` with
    /// `repeat`.
    #[serde(default)]
    resume: Option<bool>,
    /// Longest line; a longer one ends the run with its place.
    #[serde(default = "line_max")]
    line_max: ByteSize,
}

/// How often the input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Repeat {
    /// For ever, or once.
    Forever(bool),
    /// So many times in all.
    Times(u32),
}

impl Default for Repeat {
    fn default() -> Self {
        Self::Forever(false)
    }
}

impl Repeat {
    fn times(self) -> Option<u32> {
        match self {
            Self::Forever(true) => None,
            Self::Forever(false) => Some(1),
            Self::Times(times) => Some(times.max(1)),
        }
    }
}

fn line_max() -> ByteSize {
    ByteSize(1 << 20)
}

/// A checked `file` source.
#[derive(Clone, Debug)]
struct Plan {
    config: Config,
    pattern: PathBuf,
    folder: PathBuf,
    resume: bool,
}

fn check(config: Value, facts: &Facts) -> Result<Box<dyn SourcePlan>, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let repeats = config.repeat.times() != Some(1);
    let mut problems = Vec::new();
    if let Err(error) = glob::Pattern::new(&config.path) {
        problems.push(Problem::error("/path", format!("not a glob: {error}")));
    }
    if repeats && config.follow {
        problems.push(
            Problem::error("/repeat", "`repeat` and `follow` exclude each other")
                .help("a followed file has no end at which to start again"),
        );
    }
    if repeats && config.resume == Some(true) {
        problems.push(
            Problem::error("/resume", "`resume` and `repeat` exclude each other")
                .help("a repeated file has no one place to go on from"),
        );
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Box::new(Plan {
        pattern: facts.path(&config.path),
        folder: facts.folder.clone(),
        resume: config.resume.unwrap_or(!repeats),
        config,
    }))
}

impl Plan {
    /// The files that the pattern names now, in order.
    fn files(&self) -> Result<Vec<PathBuf>, SourceError> {
        let pattern = self.pattern.to_string_lossy();
        let files: Vec<PathBuf> = if self.pattern.exists() {
            vec![self.pattern.clone()]
        } else {
            let found = glob::glob(&pattern).map_err(|error| {
                SourceError::io(format!("listing {pattern}"), io::Error::other(error))
            })?;
            found
                .filter_map(Result::ok)
                .filter(|path| path.is_file())
                .collect()
        };
        if files.is_empty() {
            let error = io::Error::new(io::ErrorKind::NotFound, "no such file");
            return Err(SourceError::io(pattern, error));
        }
        Ok(files)
    }

    fn partition(&self, path: &Path) -> Partition {
        let name = path.strip_prefix(&self.folder).unwrap_or(path);
        Partition::new(name.to_string_lossy())
    }
}

impl SourcePlan for Plan {
    fn describe(&self) -> String {
        format!("file {}", self.config.path)
    }

    fn replayable(&self) -> bool {
        true
    }

    fn open(&self, context: SourceContext) -> BoxFuture<'_, Result<Source, SourceError>> {
        Box::pin(async move {
            let files = self.files()?;
            let mut start = Checkpoint::default();
            let committer: Box<dyn Committer> = if self.resume {
                let path = context.state_dir.join("positions.json");
                let (mut memory, mut known) = PositionFile::open(path)?;
                if context.fresh {
                    known = Positions::new();
                }
                for path in &files {
                    let partition = self.partition(path);
                    let identity = identity(path).map_err(|e| unreadable(path, e))?;
                    let position = known
                        .get(partition.name())
                        .filter(|remembered| remembered.identity == identity)
                        .map_or(0, |remembered| remembered.position);
                    if position > 0 {
                        tracing::info!(
                            file = partition.name(),
                            position,
                            "going on where the last run ended; --fresh starts over"
                        );
                        start.start_at(partition.clone(), position);
                    }
                    memory.identify(partition.name(), position, identity);
                }
                Box::new(memory)
            } else {
                Box::new(Forgetful)
            };
            let reader = FileReader {
                pace: self.config.rate.map(Pace::new),
                rounds_left: self.config.repeat.times(),
                left: files.iter().cloned().collect(),
                files,
                start: start.clone(),
                plan: self.clone(),
                context,
                current: None,
                block: vec![0; BLOCK_BYTES],
                block_at: 0..0,
                ends: HashMap::new(),
                gave_in_round: false,
                oddities: Oddities::default(),
            };
            Ok(Source {
                reader: Box::new(reader),
                committer,
                start,
            })
        })
    }
}

fn unreadable(path: &Path, error: io::Error) -> SourceError {
    SourceError::io(format!("reading {}", path.display()), error)
}

fn shorter(partition: &Partition, length: u64, position: u64) -> SourceError {
    let message = format!(
        "the file has only {length} bytes, but was read to {position}: it was cut or replaced \
         (`--fresh` reads it from its beginning)"
    );
    SourceError::input(partition, position, message)
}

/// A digest of the first line or the first bytes, whichever is shorter: a file that only grew keeps
/// it, another file of the same name has another.
fn identity(path: &Path) -> io::Result<String> {
    let mut head = Vec::new();
    File::open(path)?
        .take(IDENTITY_BYTES)
        .read_to_end(&mut head)?;
    if let Some(newline) = memchr::memchr(b'\n', &head) {
        head.truncate(newline);
    }
    let digest = Sha256::digest(&head);
    Ok(digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str())
}

fn is_packed(path: &Path) -> bool {
    matches!(extension(path), Some("gz" | "zst"))
}

fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let file = File::open(path)?;
    Ok(match extension(path) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(file)?),
        _ => Box::new(file),
    })
}

struct FileReader {
    plan: Plan,
    context: SourceContext,
    files: Vec<PathBuf>,
    /// Files of this round that are not open yet.
    left: VecDeque<PathBuf>,
    /// Rounds that are left, this one included; `None`: for ever.
    rounds_left: Option<u32>,
    /// Where each partition starts in the first round.
    start: Checkpoint,
    current: Option<Current>,
    block: Vec<u8>,
    /// The part of `block` that is not cut yet.
    block_at: std::ops::Range<usize>,
    pace: Option<Pace>,
    /// Whether this round gave a record.
    gave_in_round: bool,
    /// Where each partition's positions ended in the last round: the next one goes on from there.
    ends: HashMap<PathBuf, u64>,
    oddities: Oddities,
}

struct Current {
    path: PathBuf,
    file: Box<dyn Read + Send>,
    lines: Lines,
    /// Offset of the next byte that is read.
    read_to: u64,
}

impl FileReader {
    /// Opens the next file of the round; `false` when there is none.
    fn open_next(&mut self) -> Result<bool, SourceError> {
        let Some(path) = self.left.pop_front() else {
            return Ok(false);
        };
        let partition = self.plan.partition(&path);
        let offset = self.start.position(&partition).unwrap_or(0);
        let mut file = open(&path).map_err(|error| unreadable(&path, error))?;
        let skipped = io::copy(&mut file.by_ref().take(offset), &mut io::sink())
            .map_err(|error| unreadable(&path, error))?;
        if skipped < offset {
            return Err(shorter(&partition, skipped, offset));
        }
        let first = self.ends.get(&path).copied().unwrap_or(skipped);
        let line_max = self.plan.config.line_max.0 as usize;
        let lines = Lines::new(partition, self.context.limits, line_max, first);
        let read_to = skipped;
        self.current = Some(Current {
            path,
            file,
            lines,
            read_to,
        });
        self.block_at = 0..0;
        Ok(true)
    }

    /// A followed file that was cut would be read on from the middle of a line.
    fn still_whole(&self) -> Result<(), SourceError> {
        let Some(Current { path, read_to, .. }) = &self.current else {
            return Ok(());
        };
        let length = std::fs::metadata(path)
            .map_err(|error| unreadable(path, error))?
            .len();
        if !is_packed(path) && length < *read_to {
            return Err(shorter(&self.plan.partition(path), length, *read_to));
        }
        Ok(())
    }

    /// Ends the open file.
    fn close_current(&mut self) -> Option<Batch> {
        let mut current = self.current.take()?;
        let batch = current.lines.finish();
        self.oddities.empty_lines += current.lines.oddities().empty_lines;
        self.ends.insert(current.path, current.lines.taken_to());
        batch
    }

    /// Starts over where `repeat` says so; a round without a record would be followed by such rounds
    /// for ever.
    fn next_round(&mut self) -> bool {
        if !std::mem::take(&mut self.gave_in_round) {
            return false;
        }
        if let Some(rounds) = &mut self.rounds_left {
            *rounds = rounds.saturating_sub(1);
            if *rounds == 0 {
                return false;
            }
        }
        self.start = Checkpoint::default();
        self.left = self.files.iter().cloned().collect();
        true
    }

    async fn read(&mut self) -> Result<Option<Batch>, SourceError> {
        loop {
            if self.current.is_none() && self.left.is_empty() && self.rounds_left == Some(0) {
                return Ok(None); // closed, or at its end: no pace to wait for
            }
            let allowed = match &mut self.pace {
                Some(pace) => pace.wait().await,
                None => usize::MAX,
            };
            let Some(current) = &mut self.current else {
                if !self.open_next()? && !self.next_round() {
                    return Ok(None);
                }
                continue;
            };
            if self.block_at.is_empty() {
                let count = current
                    .file
                    .read(&mut self.block)
                    .map_err(|error| unreadable(&current.path, error))?;
                self.block_at = 0..count;
                current.read_to += count as u64;
                if count == 0 {
                    let follow = self.plan.config.follow && self.left.is_empty();
                    let batch = match follow {
                        true => current.lines.take(),
                        false => self.close_current(),
                    };
                    if let Some(batch) = batch {
                        return Ok(Some(self.paced(batch)));
                    }
                    if follow {
                        self.still_whole()?;
                        tokio::time::sleep(FOLLOW_EVERY).await;
                    }
                    continue;
                }
            }
            let mut rest = &self.block[self.block_at.clone()];
            let batch = current.lines.feed(&mut rest, allowed)?;
            self.block_at.start = self.block_at.end - rest.len();
            if let Some(batch) = batch {
                return Ok(Some(self.paced(batch)));
            }
        }
    }

    fn paced(&mut self, batch: Batch) -> Batch {
        self.gave_in_round = true;
        if let Some(pace) = &mut self.pace {
            pace.released += batch.records.len() as u64;
        }
        batch
    }
}

impl Reader for FileReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, SourceError>> {
        Box::pin(self.read())
    }

    fn close(&mut self) {
        // What is unread, or read and not given out, is read again by the next run.
        self.current = None;
        self.left.clear();
        self.rounds_left = Some(0);
    }

    fn oddities(&self) -> Oddities {
        let open = self
            .current
            .as_ref()
            .map_or(0, |current| current.lines.oddities().empty_lines);
        Oddities {
            empty_lines: self.oddities.empty_lines + open,
        }
    }
}

/// Releases records at a rate. What a slow peer held back is not made up for.
struct Pace {
    rate: f64,
    since: Instant,
    released: u64,
}

impl Pace {
    /// Longest time that is caught up with at once.
    const CATCH_UP: Duration = Duration::from_millis(200);

    fn new(rate: f64) -> Self {
        Self {
            rate,
            since: Instant::now(),
            released: 0,
        }
    }

    /// Waits until at least one record is due and tells how many are.
    async fn wait(&mut self) -> usize {
        loop {
            let due = (self.since.elapsed().as_secs_f64() * self.rate) as u64 + 1;
            let allowed = due.saturating_sub(self.released);
            if allowed as f64 > self.rate * Self::CATCH_UP.as_secs_f64() + 1.0 {
                self.since = Instant::now();
                self.released = 0;
                continue;
            }
            if allowed > 0 {
                return allowed as usize;
            }
            let at = self.since + Duration::from_secs_f64(self.released as f64 / self.rate);
            tokio::time::sleep_until(at.into()).await;
        }
    }
}
