//! The `stdin` source: newline-delimited records, or blocks of bytes, from standard input.
//!
//! Owns a thread that reads, because nothing else can wait for a pipe. Remembers nothing: what was
//! read is gone from the pipe, so it cannot be replayed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::lines::{LINE_MAX, Lines};
use super::{
    BatchLimits, Forgetful, Oddities, Reader, Source, SourceContext, SourceError, SourcePlan,
};
use crate::checkpoint::Checkpoint;
use crate::driver::{self, BoxFuture, Driver, Facts, Problem, within};
use crate::record::{Batch, Partition, Records};
use crate::units::ByteSize;

/// The table entry.
pub static DRIVER: Driver<Box<dyn SourcePlan>> = Driver {
    name: "stdin",
    about: "records from standard input, a line each",
    schema: |_| schemars::schema_for!(Config),
    check,
    ignored_keys: &[],
};

/// Bytes read at once; also asked of the pipe, whose default is a quarter of it.
const BLOCK_BYTES: usize = 256 << 10;

/// How often a thread that waits for input looks whether the source was closed.
const CLOSED_EVERY: Duration = Duration::from_millis(50);

/// Longest wait for the rest of a line in whose middle the source was closed.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// Batches read ahead of the pipeline (I4).
const AHEAD_MAX: usize = 2;

/// Config of the `stdin` source.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Config {
    /// `lines`: a record a line. `bytes`: a record is whatever one read returns.
    framing: Cut,
    /// Longest line; a longer one ends the run with its place.
    line_max: ByteSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Cut {
    Lines,
    Bytes,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            framing: Cut::Lines,
            line_max: ByteSize(1 << 20),
        }
    }
}

fn check(config: Value, _facts: &Facts) -> Result<Box<dyn SourcePlan>, Vec<Problem>> {
    let config: Config = driver::read(config)?;
    let mut problems = Vec::new();
    within("/line_max", config.line_max, LINE_MAX, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Box::new(config))
}

impl SourcePlan for Config {
    fn describe(&self) -> String {
        "stdin".to_owned()
    }

    fn replayable(&self) -> bool {
        false
    }

    fn open(&self, context: SourceContext) -> BoxFuture<'_, Result<Source, SourceError>> {
        Box::pin(async move {
            // A handle of our own: nothing of it is left in the buffer of `io::stdin`.
            let input = io::stdin().as_fd().try_clone_to_owned();
            let input = input.map_err(|error| SourceError::io("opening standard input", error))?;
            let base = context.resume_at(&partition()).unwrap_or(0);
            self.read_from(File::from(input), context.limits, base)
        })
    }
}

impl Config {
    /// Opens the source on whatever standard input is: a pipe, a file, a terminal. Its first byte has the
    /// position `base`.
    pub(super) fn read_from(
        &self,
        input: File,
        limits: BatchLimits,
        base: u64,
    ) -> Result<Source, SourceError> {
        let (batches, received) = mpsc::channel(AHEAD_MAX);
        let closed = Arc::new(AtomicBool::new(false));
        let input = Input {
            file: input,
            closed: Arc::clone(&closed),
        };
        let config = self.clone();
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || match config.framing {
                Cut::Lines => read_lines(&input, &config, limits, base, &batches),
                Cut::Bytes => read_blocks(&input, limits, base, &batches),
            })
            .map_err(|error| SourceError::io("starting the stdin thread", error))?;
        Ok(Source {
            reader: Box::new(Stdin {
                received,
                closed,
                oddities: Oddities::default(),
            }),
            committer: Box::new(Forgetful),
            start: Checkpoint::default(),
        })
    }
}

/// What the thread sends: a batch, and what it met beside records so far.
type Sent = Result<(Batch, Oddities), SourceError>;

struct Stdin {
    received: mpsc::Receiver<Sent>,
    closed: Arc<AtomicBool>,
    oddities: Oddities,
}

impl Reader for Stdin {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, SourceError>> {
        Box::pin(async {
            loop {
                match self.received.recv().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(error),
                    Some(Ok((batch, oddities))) => {
                        self.oddities = oddities;
                        if !batch.records.is_empty() {
                            return Ok(Some(batch));
                        }
                    }
                }
            }
        })
    }

    fn close(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn oddities(&self) -> Oddities {
        self.oddities
    }
}

/// Standard input as the thread sees it: it ends when the source is closed.
struct Input {
    file: File,
    closed: Arc<AtomicBool>,
}

impl Input {
    /// Reads what there is; 0 at the end, and once the source is closed.
    fn read(&self, block: &mut [u8]) -> io::Result<usize> {
        loop {
            let ready = self.within(CLOSED_EVERY);
            if self.closed.load(Ordering::Relaxed) {
                return Ok(0);
            }
            if !ready {
                continue;
            }
            match (&self.file).read(block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Waits until there is something to read (or the end) for at most `wait`, and no longer once the
    /// source is closed: what was read before is given out then.
    fn ready_within(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.within(left.min(CLOSED_EVERY)) {
                return true;
            }
            if left <= CLOSED_EVERY || self.closed.load(Ordering::Relaxed) {
                return false;
            }
        }
    }

    /// Waits until there is something to read (or the end) for at most `wait`.
    fn within(&self, wait: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // Rounded up: rounding down would spin through the last millisecond.
        let wait_ms = wait.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
        // SAFETY: one valid pollfd is passed with its count, and poll keeps no pointer to it.
        let ready = unsafe { libc::poll(&mut poll, 1, wait_ms) };
        ready != 0
    }

    /// Where the source was closed in the middle of a line: takes the rest of it and nothing behind, which
    /// is for whoever reads next. Returns a batch where that makes one full.
    fn end_line(&self, lines: &mut Lines) -> Result<Option<Batch>, SourceError> {
        let until = Instant::now() + REST_TIMEOUT;
        let mut byte = [0];
        let mut full = None;
        while lines.has_partial() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.within(left) {
                tracing::warn!(
                    "stopped in the middle of a line of standard input, whose end does not come; its \
                     first part is passed on as a record"
                );
                break;
            }
            match (&self.file).read(&mut byte) {
                Ok(0) => break,
                Ok(_) => full = lines.feed(&mut &byte[..], usize::MAX)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::io("reading standard input", error)),
            }
        }
        Ok(full)
    }

    /// Asks for a larger pipe, so that the writer is woken less often. Refused is as well.
    fn widen(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: fcntl on a descriptor number touches no memory of ours.
        unsafe {
            libc::fcntl(
                self.file.as_raw_fd(),
                libc::F_SETPIPE_SZ,
                BLOCK_BYTES as libc::c_int,
            );
        }
    }
}

fn partition() -> Partition {
    Partition::new("stdin")
}

fn read_lines(
    input: &Input,
    config: &Config,
    limits: BatchLimits,
    base: u64,
    batches: &mpsc::Sender<Sent>,
) {
    let mut lines = Lines::new(partition(), limits, config.line_max.0 as usize, base);
    let mut block = vec![0; BLOCK_BYTES];
    let mut waiting_since = None;
    input.widen();
    let end = loop {
        if lines.waiting() > 0 {
            let since = *waiting_since.get_or_insert_with(Instant::now);
            if !input.ready_within(limits.wait.saturating_sub(since.elapsed())) {
                waiting_since = None;
                if let Some(batch) = lines.take()
                    && batches
                        .blocking_send(Ok((batch, lines.oddities())))
                        .is_err()
                {
                    return;
                }
                continue;
            }
        }
        let count = match input.read(&mut block) {
            Ok(0) => break Ok(()),
            Ok(count) => count,
            Err(error) => break Err(SourceError::io("reading standard input", error)),
        };
        let mut bytes = &block[..count];
        let mut failed = None;
        while !bytes.is_empty() {
            match lines.feed(&mut bytes, limits.records_max) {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    waiting_since = None;
                    if batches
                        .blocking_send(Ok((batch, lines.oddities())))
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            break Err(error);
        }
    };
    let (full, end) = match end.and_then(|()| input.end_line(&mut lines)) {
        Ok(full) => (full, Ok(())),
        Err(error) => (None, Err(error)),
    };
    if let Some(batch) = full
        && batches
            .blocking_send(Ok((batch, lines.oddities())))
            .is_err()
    {
        return;
    }
    let last = match &end {
        Ok(()) => lines.finish(),
        Err(_) => lines.take(),
    };
    // The pipeline may be gone already; then nobody needs the rest.
    let last = last.unwrap_or_else(|| empty(lines.taken_to()));
    let _ = batches.blocking_send(Ok((last, lines.oddities())));
    if let Err(error) = end {
        let _ = batches.blocking_send(Err(error));
    }
}

/// A batch that only carries the last oddities; `next` passes over it.
fn empty(start: u64) -> Batch {
    Batch {
        number: 0,
        partition: partition(),
        start,
        positions: Vec::new(),
        records: Records::default(),
    }
}

fn read_blocks(input: &Input, limits: BatchLimits, base: u64, batches: &mpsc::Sender<Sent>) {
    let mut block = vec![0; BLOCK_BYTES.min(limits.bytes_max)];
    let mut offset = base;
    loop {
        let sent = match input.read(&mut block) {
            Ok(0) => return,
            Ok(count) => {
                let start = offset;
                offset += count as u64;
                let records = Records::of_payloads([&block[..count]].into_iter().collect());
                let positions = vec![offset];
                Ok((
                    Batch {
                        number: 0,
                        partition: partition(),
                        start,
                        positions,
                        records,
                    },
                    Oddities::default(),
                ))
            }
            Err(error) => Err(SourceError::io("reading standard input", error)),
        };
        let failed = sent.is_err();
        if batches.blocking_send(sent).is_err() || failed {
            return;
        }
    }
}
