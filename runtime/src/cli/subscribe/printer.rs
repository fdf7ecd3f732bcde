//! Where the records of `wirefall subscribe` go, and their account.
//!
//! Owns the output: a file with its place, standard output, or only a count. Never connects.

use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;

use super::{Args, Globals};
use crate::sink::websocket::kept::{Kept, KeptError};
use crate::sink::websocket::protocol::Place;

/// How often a place is made durable while records come: each time costs two syncs of the disk.
const KEEP_EVERY: Duration = Duration::from_millis(200);

enum Output {
    /// Only counted.
    Count,
    Stdout(BufWriter<Stdout>),
    File(Kept),
}

/// See the module.
pub(super) struct Printer {
    to: Output,
    json: bool,
    count: bool,
    limit: u64,
    records: u64,
    bytes: u64,
    pub(super) reconnects: u64,
    lost: u64,
    lost_unknown: u64,
    started: Instant,
    kept_at: Instant,
}

impl Printer {
    pub(super) fn new(args: &Args, globals: &Globals) -> Result<Self, KeptError> {
        let to = match &args.out {
            Some(path) => Output::File(Kept::open(path, &args.keys)?),
            None if args.count => Output::Count,
            None => Output::Stdout(BufWriter::with_capacity(64 * 1024, io::stdout())),
        };
        Ok(Self {
            to,
            json: globals.json,
            count: args.count,
            limit: args.limit.unwrap_or(u64::MAX),
            records: 0,
            bytes: 0,
            reconnects: 0,
            lost: 0,
            lost_unknown: 0,
            started: Instant::now(),
            kept_at: Instant::now(),
        })
    }

    /// Where the file goes on.
    pub(super) fn place(&self) -> Option<&Place> {
        match &self.to {
            Output::File(kept) => kept.place(),
            Output::Count | Output::Stdout(_) => None,
        }
    }

    /// What stream the file is of.
    pub(super) fn stream(&self) -> Option<&str> {
        match &self.to {
            Output::File(kept) => kept.stream(),
            Output::Count | Output::Stdout(_) => None,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.records >= self.limit
    }

    /// Prints a record; false where nobody reads any more.
    pub(super) fn print(&mut self, payload: &Bytes, text: bool) -> io::Result<bool> {
        self.records += 1;
        self.bytes += payload.len() as u64;
        let to: &mut dyn Write = match &mut self.to {
            Output::Count => return Ok(true),
            Output::Stdout(to) => to,
            Output::File(to) => to,
        };
        let printed = if self.json {
            let line = match std::str::from_utf8(payload) {
                Ok(payload) if text => json!({ "text": payload }),
                _ => json!({
                    "base64": base64::engine::general_purpose::STANDARD.encode(payload)
                }),
            };
            writeln!(to, "{line}")
        } else {
            to.write_all(payload).and_then(|()| to.write_all(b"\n"))
        };
        heard(printed)
    }

    pub(super) fn flush(&mut self) -> io::Result<bool> {
        heard(match &mut self.to {
            Output::Count => Ok(()),
            Output::Stdout(to) => to.flush(),
            Output::File(to) => to.flush(),
        })
    }

    /// Whether it is time to keep the place again.
    pub(super) fn is_due(&self) -> bool {
        self.kept_at.elapsed() >= KEEP_EVERY
    }

    /// When it will be.
    pub(super) fn due_at(&self) -> Instant {
        self.kept_at + KEEP_EVERY
    }

    /// Makes what was printed safe, up to `place` of `stream`; false where nobody reads any more.
    pub(super) fn keep(&mut self, stream: &str, place: &Place) -> io::Result<bool> {
        self.kept_at = Instant::now();
        match &mut self.to {
            Output::File(kept) => kept.keep(stream, place).map(|()| true),
            Output::Count | Output::Stdout(_) => self.flush(),
        }
    }

    /// Records are missing: so many, where that is known.
    pub(super) fn lose(&mut self, lost: Option<u64>) {
        match lost {
            Some(lost) => {
                self.lost += lost;
                self.note(&format!(
                    "{lost} records are lost: the server no longer has them"
                ));
            }
            None => {
                self.lost_unknown += 1;
                self.note("records may be lost; how many the server does not know");
            }
        }
    }

    pub(super) fn note(&self, text: &str) {
        if self.json {
            say!("{}", json!({ "note": text }));
        } else {
            say!("{text}");
        }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let Self {
            records,
            bytes,
            reconnects,
            lost,
            lost_unknown,
            ..
        } = self;
        let seconds = self.started.elapsed().as_secs_f64();
        let account = json!({
            "records": records, "bytes": bytes, "reconnects": reconnects, "lost": lost,
            "lost_unknown": lost_unknown, "seconds": seconds
        });
        match (self.count, self.json) {
            (true, true) => heard(writeln!(io::stdout(), "{account}")).map(drop),
            (true, false) => heard(writeln!(io::stdout(), "{records}")).map(drop),
            (false, true) => {
                say!("{account}");
                Ok(())
            }
            (false, false) => {
                let mut told = format!("{records} records, {bytes} bytes in {seconds:.1} s");
                if lost > 0 {
                    told += &format!(", {lost} records lost");
                }
                if lost_unknown > 0 {
                    told += &format!(", and {lost_unknown} gaps of unknown length");
                }
                say!("{told}");
                Ok(())
            }
        }
    }
}

/// A reader that left (`… | head`) is no error.
fn heard(printed: io::Result<()>) -> io::Result<bool> {
    match printed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}
